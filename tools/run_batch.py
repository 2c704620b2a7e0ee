#!/usr/bin/env python3
"""Train, select and test a list of models, one after the other or side by side; what bash/run_main.sh calls.

Models are configs, or paths below --config-root with or without .py. MODEL+RECIPE+RECIPE lays recipes over one of them
(files of configs/_base_ by name), --with over all. What follows ``--`` goes to training and test as --cfg-options. Run
it again in the same project to go on after an interruption, also on another engine.

    python tools/run_batch.py --project p --gpu-count 1 --gpus 0,1,2,3 CONFIG ...         # a queue on four GPUs
    python tools/run_batch.py --project p --gpu-count 0 --slots 2 --threads 1 CONFIG ...  # two at a time on the CPU
    python tools/run_batch.py --project p --gpu-count 1 --engine ray CONFIG ...           # RAY_ADDRESS, or a Ray here
    python tools/run_batch.py --project p --gpu-count 1 --engine slurm --dry-run CONFIG ...

Exit code: 0 all models done, 1 some not, 2 wrong input, 130 stopped.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mmdefect.experiments.batch import Batch, Tools, candidates, find_jobs
from mmdefect.experiments.engines import Slots, SlurmArray, add_engine_options, engine_of
from mmdefect.experiments.job import check_job, plan_commands
from mmdefect.experiments.process import stop_signals
from mmdefect.experiments.run_batch import check_batch, run_batch
from mmdefect.experiments.select import Rule


def parse_args(argv: list[str]) -> argparse.Namespace:
    usage = '%(prog)s --project NAME --gpu-count N [options] CONFIG ... [-- KEY=VALUE ...]'
    parser = argparse.ArgumentParser(
        description=__doc__, usage=usage, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('configs', nargs='*', metavar='CONFIG')
    parser.add_argument('--project', required=True, help='name of the folder below --work-dir')
    parser.add_argument('--gpu-count', required=True, type=int, help='devices of a job: 0 = CPU, 1, or n (torchrun)')
    parser.add_argument('--candidates', default='', help='models as one text, used if no CONFIG is given')
    parser.add_argument(
        '--with', dest='recipes', nargs='+', default=[], metavar='RECIPE', help='recipes for all models'
    )
    parser.add_argument('--config-root', default='configs', type=Path)
    parser.add_argument('--work-dir', default='work_dirs', type=Path)
    parser.add_argument('--find-best', default=ROOT / 'bash' / 'find_best.py', type=Path, help='selection program')
    parser.add_argument('--train-tool', default=ROOT / 'tools' / 'train.py', type=Path)
    parser.add_argument('--test-tool', default=ROOT / 'tools' / 'test.py', type=Path)
    parser.add_argument('--python', default=sys.executable, help='interpreter that runs the tools')
    parser.add_argument('--metric', default='score', help='see bash/find_best.py (default: score)')
    parser.add_argument('--exclude-background', action='store_true', help='see bash/find_best.py')
    parser.add_argument('--tie', choices=('first', 'last'), default='last')
    parser.add_argument('--mode', choices=('max', 'min'), default='max')
    parser.add_argument('--background', help='name of the background class')
    parser.add_argument('--smooth', type=int, default=1, metavar='N', help='see bash/find_best.py')
    parser.add_argument('--average', choices=('median', 'mean'), default='median', help='see bash/find_best.py')
    parser.add_argument('--dry-run', action='store_true', help='check everything and print the commands only')
    add_engine_options(parser)
    cfg_options: list[str] = []
    if '--' in argv:
        cut = argv.index('--')
        argv, cfg_options = argv[:cut], argv[cut + 1 :]
    return parser.parse_intermixed_args(argv, namespace=argparse.Namespace(cfg_options=cfg_options))


def make_batch(args: argparse.Namespace) -> Batch:
    entries = args.configs or candidates(args.candidates)
    jobs = find_jobs(entries, list(dict.fromkeys([args.config_root, ROOT / 'configs'])), args.recipes)
    # Absolute paths: checkpoints name each other by path, and a later run may start from another folder.
    tools = Tools(args.train_tool.absolute(), args.test_tool.absolute(), args.find_best.absolute(), args.python)
    rule = Rule(args.metric, args.exclude_background, args.tie, args.mode, args.background, args.smooth, args.average)
    return Batch(args.work_dir.absolute(), args.project, jobs, args.gpu_count, tools, rule, tuple(args.cfg_options))


def say(line: str) -> None:
    print(line, flush=True)


def show_plan(batch: Batch, engine) -> None:
    """Print what would be done."""
    if isinstance(engine, SlurmArray):  # may be looked at where there is no Slurm
        for job in batch.jobs:
            check_job(batch, job)
        say(engine.script(batch, batch.jobs, batch.project_dir / 'slurm' / 'TIME'))
    else:
        check_batch(batch, engine)
    for job in batch.jobs:
        for command in plan_commands(batch, job).values():
            say(shlex.join(command))


def main(argv: list[str] | None = None) -> int:
    args = parse_args(sys.argv[1:] if argv is None else argv)
    try:
        batch = make_batch(args)
        engine = engine_of(args, batch.gpu_count)
        if args.dry_run:
            show_plan(batch, engine)
            return 0
        with stop_signals():
            states = run_batch(batch, say, None if engine == Slots() else engine)
    except (OSError, ValueError, RuntimeError, ModuleNotFoundError) as err:
        print(f'run_batch: error: {err}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    say(f'\n{(batch.project_dir / "results.md").read_text()}\nresults: {batch.project_dir / "results.csv"}')
    return 0 if args.no_wait or all(state.status == 'done' for state in states) else 1


if __name__ == '__main__':
    sys.exit(main())
