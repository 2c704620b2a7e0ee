#!/usr/bin/env python3
"""Hold a tested model against what it may get wrong, and write a page that can be printed and signed.

    python tools/accept.py work_dirs/blades/exp/blades/fast-scnn_recommended --overkill .5% --escape 1%

A limit is kept when the whole 95 % interval of the share lies within it. Where this many parts cannot tell, it says how
many more are needed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmdefect.command_line import one_line_errors
from mmdefect.extras import stop_without

stop_without('train', 'jinja2', 'matplotlib', 'scipy')

from mmdefect.experiments.acceptance import FAIL, PASS, Costs, accept, read_share, write_acceptance

#: 2 is a mistake in the call.
EXIT_CODES = {PASS: 0, FAIL: 1}
UNKNOWN = 3


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='Exit codes: 0 pass, 1 fail, 2 a mistake in the call, 3 cannot be known from this many parts.',
    )
    parser.add_argument('run', type=Path, help='folder of a tested run, with parts.csv in it or in its test/')
    parser.add_argument('--overkill', required=True, metavar='SHARE', help='of the good parts that may be rejected')
    parser.add_argument('--escape', required=True, metavar='SHARE', help='of the bad parts that may be accepted')
    costs = parser.add_argument_group('costs, all three or none')
    costs.add_argument('--cost-escape', type=float, metavar='X', help='of a bad part that is accepted')
    costs.add_argument('--cost-overkill', type=float, metavar='X', help='of a good part that is rejected')
    costs.add_argument('--bad-share', metavar='SHARE', help='of bad parts among those that are made')
    parser.add_argument('--out', type=Path, help='page to write (default: RUN/acceptance.html)')
    parser.add_argument(
        '--sign', nargs='+', default=['checked', 'released'], metavar='ROLE', help='who signs (default: %(default)s)'
    )
    args = parser.parse_args()
    given = [value is not None for value in (args.cost_escape, args.cost_overkill, args.bad_share)]
    if any(given) and not all(given):
        parser.error('--cost-escape, --cost-overkill and --bad-share go together')
    return args


@one_line_errors(ValueError, OSError)
def main() -> int:
    args = parse_args()
    costs = Costs(args.cost_escape, args.cost_overkill, read_share(args.bad_share)) if args.bad_share else None
    acceptance = accept(args.run, read_share(args.overkill), read_share(args.escape), costs)
    page = args.out or args.run / 'acceptance.html'
    write_acceptance(acceptance, page, args.sign)
    print(f'{acceptance.sentence()}\n{page}')
    return EXIT_CODES.get(acceptance.answer, UNKNOWN)


if __name__ == '__main__':
    sys.exit(main())
