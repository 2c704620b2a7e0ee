#!/usr/bin/env python3
"""Print the best iteration of a training, read from mmengine's scalars.json.

Only the number goes to stdout, so ``BEST=$(python bash/find_best.py --json_log_path F)`` works; everything else
goes to stderr. Needs plain Python, no torch. Several logs of one resumed training are given oldest first.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmdefect.experiments.logs import read_validations
from mmdefect.experiments.select import Rule, choose_best


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--json_log_path', '--json-log-path', nargs='+', required=True, metavar='F')
    parser.add_argument(
        '--metric',
        default='score',
        help='score = (aAcc + mAcc + mIoU) / 3 (default), score2 = (mAcc + mIoU) / 3, mIoU, fg_mIoU, '
        'or any other key of the log, such as fg_AP, AP.<class>, cal_fg_mIoU (docs/evaluation.md)',
    )
    parser.add_argument(
        '--exclude-background',
        action='store_true',
        help='means over the defect classes only; score becomes (fg_mAcc + fg_mIoU) / 2',
    )
    parser.add_argument('--background', help='name of the background class (default: the first class of the log)')
    parser.add_argument('--tie', choices=('first', 'last'), default='last', help='which of equals wins (default: last)')
    parser.add_argument('--mode', choices=('max', 'min'), default='max', help='is large or small good (default: max)')
    parser.add_argument(
        '--smooth',
        type=int,
        default=1,
        metavar='N',
        help='compare the running average over N (odd) neighbouring validations (default: 1, none)',
    )
    parser.add_argument(
        '--average', choices=('median', 'mean'), default='median', help='for --smooth (default: median)'
    )
    parser.add_argument('--verbose', action='store_true', help='list every validation on stderr')
    parser.add_argument('--json', action='store_true', help='print one JSON object instead of the number')
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    try:
        rule = Rule(
            args.metric, args.exclude_background, args.tie, args.mode, args.background, args.smooth, args.average
        )
        choice = choose_best(read_validations(args.json_log_path), rule)
    except (OSError, ValueError) as err:
        print(f'find_best: error: {err}', file=sys.stderr)
        return 1
    if rule.counts_background:
        print(
            f'find_best: note: {rule.metric} counts the background, which is nearly all of a defect image; '
            '--metric fg_mIoU (or fg_AP, cal_fg_mIoU) does not',
            file=sys.stderr,
        )
    if args.verbose:
        for step, value in choice.candidates.items():
            average = f'  ({args.average} of {args.smooth}: {choice.compared[step]:.4f})' if args.smooth > 1 else ''
            print(
                f'{step:>9}  {args.metric} {value:.4f}{average}{"  <- best" if step == choice.step else ""}',
                file=sys.stderr,
            )
    if args.json:
        print(
            json.dumps(
                {
                    'step': choice.step,
                    'value': choice.value,
                    'metric': args.metric,
                    'exclude_background': args.exclude_background,
                    'tie': args.tie,
                    'mode': args.mode,
                    'smooth': args.smooth,
                    'average': args.average,
                    'candidates': {str(step): value for step, value in choice.candidates.items()},
                }
            )
        )
    else:
        print(choice.step)
    return 0


if __name__ == '__main__':
    sys.exit(main())
