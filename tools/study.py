#!/usr/bin/env python3
"""Run a study: every arm with every seed, train, choose on validation, test once, one record each, one page of tables.

    python tools/study.py configs/studies/wta_losses.py --data-root data/wta512 --seeds 3 --slots 2 --threads 1

Runs that have a record are not run again, interrupted ones go on from their last checkpoint. The page can be written
again from the records alone (--table-only), without data. Exit code: 0 all runs done, 1 some not, 2 wrong input,
130 stopped.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mmdefect.command_line import one_line_errors
from mmdefect.extras import stop_without

stop_without('train', 'matplotlib', 'PIL', 'scipy')

from mmdefect.experiments.batch import Tools
from mmdefect.experiments.engines import add_engine_options, engine_of
from mmdefect.experiments.preregistration import preregister
from mmdefect.experiments.process import stop_signals
from mmdefect.experiments.settings import parse_overrides
from mmdefect.experiments.study import Composer, expand, read_study
from mmdefect.experiments.study_page import write_study_page
from mmdefect.experiments.study_records import code_digest, record_path, versions
from mmdefect.experiments.study_run import Places, run_study
from mmdefect.files import read_json, write_json


def parse_args(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('study', type=Path, help='study file, see docs/studies.md')
    parser.add_argument('--seeds', type=int, help='number of seeds, 0 .. n-1 (default: those of the study)')
    parser.add_argument('--arms', nargs='+', help='only these arms')
    parser.add_argument('--priority', type=int, help='only arms up to this priority')
    parser.add_argument(
        '--data-root',
        default=os.environ.get('MMDEFECT_DATA_ROOT'),
        help='folder of the data set (default: $MMDEFECT_DATA_ROOT, else that of the config)',
    )
    parser.add_argument('--iterations', type=int, help="updates of each run instead of the study's")
    parser.add_argument('--val-interval', type=int, help="updates between validations instead of the study's")
    parser.add_argument('--gpu-count', type=int, help='devices of each run (default: 1 with --gpus, else 0 = CPU)')
    parser.add_argument('--workers', type=int, help='loader processes of each run; 0 loads in the training process')
    parser.add_argument('--set', nargs='+', default=[], metavar='KEY=VALUE', help='overrides of all arms')
    parser.add_argument('--work-dir', default='work_dirs', type=Path)
    parser.add_argument('--results', default=ROOT / 'docs' / 'results', type=Path, help='pages, and records/ below')
    parser.add_argument('--python', default=sys.executable, help='interpreter that runs the tools')
    add_engine_options(parser)
    parser.add_argument('--dry-run', action='store_true', help='print the runs and what is open, start nothing')
    parser.add_argument(
        '--allow-modified', action='store_true', help='run from a tree with local changes; the page says so on top'
    )
    parser.add_argument(
        '--preregister', action='store_true', help='write what is planned below results/preregistered and stop'
    )
    parser.add_argument('--table-only', action='store_true', help='write the page from the records and stop')
    return parser.parse_args(argv)


def make_study(args: argparse.Namespace):
    study = read_study(args.study)
    if args.arms:
        unknown = set(args.arms) - {arm.name for arm in study.arms}
        if unknown:
            raise ValueError(
                f'`--arms` must name arms of the study, {[arm.name for arm in study.arms]}, got {sorted(unknown)}.'
            )
    seeds = tuple(range(args.seeds)) if args.seeds else study.seeds
    iterations = args.iterations or study.iterations
    val_interval = args.val_interval or min(study.val_interval, iterations)
    return replace(
        study,
        seeds=seeds,
        iterations=iterations,
        val_interval=val_interval,
        overrides={**study.overrides, **parse_overrides(args.set)},
    )


def local_options(args: argparse.Namespace) -> dict:
    """Settings of this machine, which change no result."""
    options = {'data_root': str(Path(args.data_root).absolute())} if args.data_root else {}
    if args.workers is not None:
        for split in ('train', 'val', 'test'):
            options[f'{split}_dataloader.num_workers'] = args.workers
            options[f'{split}_dataloader.persistent_workers'] = args.workers > 0
    return options


def expand_runs(study, args: argparse.Namespace):
    from mmdefect.apis.study import compose_settings, data_files, read_settings

    cache = args.work_dir / 'studies' / 'file_hashes.json'
    known = read_json(cache) if cache.is_file() else {}
    arms = [
        arm
        for arm in study.arms
        if (not args.arms or arm.name in args.arms) and (args.priority is None or arm.priority <= args.priority)
    ]
    if not arms:
        raise ValueError('`--arms` and `--priority` must leave an arm to run, but they leave none.')
    runs = expand(
        study,
        Composer(read_settings, compose_settings, data_files),
        ROOT,
        local_options(args),
        known,
        arms,
        {'code': code_digest(ROOT), 'versions': versions()},
    )
    write_json(cache, known)
    root = runs[0].settings.get('data_root')
    if root and not Path(root).is_dir():
        raise FileNotFoundError(f'the data root must be a folder, but {root} is not; give --data-root.')
    return runs


def say(line: str) -> None:
    print(line, flush=True)


def command_text(argv: list[str]) -> str:
    """The command for the page, without the places of this machine."""
    parts, skip = [], False
    for part in argv:
        if skip or part in ('--work-dir', '--results', '--python'):
            skip = not skip
            continue
        inside = part.startswith(f'{ROOT}/')
        place = os.path.relpath(part, ROOT) if inside else Path(part).name if part.startswith('/') else part
        parts.append('DATA' if parts and parts[-1] == '--data-root' else place)
    return shlex.join(['python', 'tools/study.py', *parts])


@one_line_errors(OSError, ValueError, RuntimeError, ModuleNotFoundError)
def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    args = parse_args(argv)
    args.work_dir, args.results = args.work_dir.absolute(), args.results.absolute()
    try:
        study = make_study(args)
        command = command_text([a for a in argv if a not in ('--table-only', '--dry-run')])
        if args.table_only:
            say(str(write_study_page(study, args.results, command)))
            return 0
        if args.preregister:
            say(f'written: {preregister(study, args.results, ROOT)}; commit it before the first run')
            return 0
        runs = expand_runs(study, args)
        places = Places(args.work_dir, args.results, ROOT)
        if args.dry_run:
            for run in runs:
                done = record_path(places.records, run.key).is_file()
                say(f'{run.key}  {run.arm.name:20s} seed {run.seed:<4d} {"recorded" if done else "to do"}')
            return 0
        gpu_count = args.gpu_count if args.gpu_count is not None else int(bool(args.gpus))
        engine = engine_of(args, gpu_count)
        tools = Tools(
            ROOT / 'tools' / 'train.py', ROOT / 'tools' / 'test.py', ROOT / 'bash' / 'find_best.py', args.python
        )
        from mmdefect.apis.study import load_truth

        with stop_signals():
            states = run_study(
                study, runs, places, tools, engine, load_truth, command, say, gpu_count, args.allow_modified
            )
    except KeyboardInterrupt:
        return 130
    say(str(args.results / f'{study.name}.md'))
    return 0 if all(state.status == 'done' for state in states.values()) else 1


if __name__ == '__main__':
    sys.exit(main())
