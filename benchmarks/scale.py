"""Throughput with one and two processes: jobs in slots and on Ray, bulk work, ranks of a training; cost of the planner.

    python benchmarks/scale.py slots        # one section; without a name all of them, some minutes
    python benchmarks/scale.py --table      # the tables of benchmarks/results/scale.json

Wall time, because waiting is what is measured; the contestants run in turns, so that a busy machine slows all alike.
Each section replaces its part of the record, with the load of the machine at that time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(Path(__file__).resolve().parent), str(ROOT)]
from common import RESULTS, environment, format_table

from mmdefect.experiments import process, states
from mmdefect.experiments.batch import Batch, Tools, find_jobs
from mmdefect.experiments.engines import Engine, RayTasks, Slots
from mmdefect.experiments.run_batch import run_batch
from mmdefect.experiments.status import read_status

RECORD = RESULTS / 'scale.json'
#: A training tool of one thread: arithmetic in place of a network, and the files of a training.
TRAIN = """
import json, sys, zipfile
from pathlib import Path
import numpy as np
folder = Path(sys.argv[sys.argv.index('--work-dir') + 1])
data = np.random.default_rng(0).standard_normal((256, 256), np.float32)
for _ in range({steps}):
    data = np.tanh(data @ data / 16)
log = folder / '20260101_000000' / 'vis_data' / 'scalars.json'
log.parent.mkdir(parents=True, exist_ok=True)
log.write_text(json.dumps(dict(lr=.1, iter=1, step=1)) + '\\n' + json.dumps(dict(aAcc=1., mIoU=1., mAcc=1., step=1)))
with zipfile.ZipFile(folder / 'iter_1.pth', 'w') as file:
    file.writestr('a', 'b')
(folder / 'last_checkpoint').write_text(str(folder / 'iter_1.pth'))
"""
TEST = "print('Iter(test) [1/1]    aAcc: 99.9000  mIoU: 50.0000  data_time: 0.0046  time: 0.0373')\n"


def make_batch(folder: Path, jobs: int, steps: int) -> Batch:
    """Return a batch of equal jobs in a new project."""
    (folder / 'train.py').write_text(TRAIN.replace('{steps}', str(steps)))
    (folder / 'test.py').write_text(TEST)
    configs = []
    for number in range(jobs):
        path = folder / 'configs' / f'm{number}.py'
        path.parent.mkdir(exist_ok=True)
        path.write_text('')
        configs.append(str(path))
    tools = Tools(folder / 'train.py', folder / 'test.py', ROOT / 'bash' / 'find_best.py', sys.executable)
    return Batch(folder, f'p{time.monotonic_ns()}', find_jobs(configs, []), 0, tools)


def silent(line: str) -> None:
    """Say nothing."""


def seconds_of(folder: Path, jobs: int, steps: int, engine: Engine | None) -> float:
    """Time one batch from nothing to its table."""
    batch, begun = make_batch(folder, jobs, steps), time.perf_counter()
    done = run_batch(batch, silent, engine)
    assert [state.status for state in done] == ['done'] * jobs
    return time.perf_counter() - begun


def slots(rounds: int, steps: int) -> list[dict[str, object]]:
    """Four jobs of one thread: one after the other, and on two slots."""
    times: dict[str, list[float]] = {'one after the other': [], 'two slots': []}
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(rounds):
            for name, engine in (('one after the other', None), ('two slots', Slots(2, 1))):
                times[name].append(seconds_of(Path(folder), 4, steps, engine))
    return rows_of(times, 'one after the other', 'engine')


def ray(rounds: int, steps: int) -> list[dict[str, object]]:
    """The same jobs on two slots and on a Ray of two cores that is up already; and how long Ray takes to come up."""
    from mmdefect.experiments.engines import connected

    times: dict[str, list[float]] = {'two slots': [], 'Ray, two cores': []}
    begun = time.perf_counter()
    with connected('local', 2, 0), tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter() - begun
        for _ in range(rounds):
            for name, engine in (('two slots', Slots(2, 1)), ('Ray, two cores', RayTasks(threads=1))):
                times[name].append(seconds_of(Path(folder), 4, steps, engine))
    return [
        *rows_of(times, 'two slots', 'engine'),
        {'engine': 'start of a local Ray', 'seconds': round(start, 2), 'spread': 0.0, 'throughput': ''},
    ]


def rows_of(times: dict[str, list[float]], reference: str, column: str) -> list[dict[str, object]]:
    """Median, range, and throughput against one of them, round by round."""
    rows = []
    for name, values in times.items():
        ratios = [base / value for base, value in zip(times[reference], values, strict=True)]
        rows.append(
            {
                column: name,
                'seconds': round(statistics.median(values), 2),
                'spread': round(max(values) - min(values), 2),
                'throughput': round(statistics.median(ratios), 2),
            }
        )
    return rows


def planner(jobs: int = 1000) -> list[dict[str, object]]:
    """What the planner itself costs for a job, and the table of a large project."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder)
        owner = process.process_record(os.getpid())

        def timed(what: str, call, count: int) -> None:
            begun = time.perf_counter()
            for number in range(count):
                call(number)
            rows.append({'what': what, 'ms': round(1e3 * (time.perf_counter() - begun) / count, 3)})

        place = [project / 'exp' / 'a' / f'm{number}' for number in range(jobs)]
        timed(
            'write a state (replaced whole, synced)',
            lambda n: states.write_state(place[n], states.JobState(f'a/m{n}')),
            jobs,
        )
        timed(
            'claim and release a job',
            lambda n: states.release_claim(place[n], states.take_claim(place[n], owner)),
            jobs,
        )
        timed('read a state', lambda n: states.read_state(place[n]), jobs)
        timed(f'table of {jobs} jobs', lambda n: read_status(project), 1)
    return rows


def synthesis(count: int) -> list[dict[str, object]]:
    """Images of 256 x 256 with pasted defects on disk, with one and two processes, without their start."""
    from mmdefect.apis.config import load_config
    from mmdefect.apis.synthesize import make_writer
    from mmdefect.experiments.bulk import Workers, map_items
    from tests.helpers.data import write_wta

    times: dict[str, list[float]] = {'this process': [], 'two processes': []}
    from functools import partial

    leaf = str(ROOT / 'configs/fast_scnn/fast-scnn_paste-poisson_2k_wta-256.py')
    with tempfile.TemporaryDirectory() as folder:
        os.environ['MMDEFECT_CACHE'] = f'{folder}/cache'
        write_wta(Path(folder) / 'data', dict(train=8, val=2, test=2), size_hw=(256, 256))
        options = {'data_root': f'{folder}/data'}
        for name, workers in (('this process', Workers()), ('two processes', Workers(count=2, threads=1))):
            make = partial(make_writer, partial(load_config, leaf, options), Path(folder) / name, 0, 'train')
            results = map_items(make, range(count + 16), workers)
            for _ in range(16):  # the workers have started and hold their library
                next(results)
            begun = time.perf_counter()
            assert sum(1 for _ in results) == count
            times[name].append(time.perf_counter() - begun)
    rows = rows_of(times, 'this process', 'who')
    return [{**row, 'images a second': round(count / row['seconds'], 1)} for row in rows]


def ranks(iterations: int) -> list[dict[str, object]]:
    """Fast-SCNN at 128 pixels, batch 8: one process, and two with batch 4 each; seconds of an update from the log."""
    from tests.helpers.data import write_wta

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        write_wta(Path(folder) / 'data', dict(train=8, val=2, test=2), size_hw=(128, 128))
        for count in (1, 2):
            work = Path(folder) / str(count)
            options = [
                f'data_root={folder}/data',
                'crop_size=(128,128)',
                'image_scale=(128,128)',
                f'train_dataloader.batch_size={8 // count}',
                'train_dataloader.num_workers=0',
                'train_dataloader.persistent_workers=False',
                'val_dataloader.num_workers=0',
                'val_dataloader.persistent_workers=False',
                f'train_cfg.max_iters={iterations}',
                f'train_cfg.val_interval={iterations}',
                'default_hooks.logger.interval=1',
            ]
            subprocess.run(
                [
                    'bash',
                    str(ROOT / 'tools/dist_train.sh'),
                    str(ROOT / 'configs/fast_scnn/fast-scnn_baseline_2k_wta-256.py'),
                    str(count),
                    '--work-dir',
                    str(work),
                    '--cfg-options',
                    *options,
                ],
                check=True,
                capture_output=True,
                env={**os.environ, 'PYTHON': sys.executable},
            )
            lines = [json.loads(line) for line in next(work.rglob('scalars.json')).read_text().splitlines()]
            seconds = [line['time'] for line in lines if 'lr' in line][3:]
            update = statistics.median(seconds)
            rows.append(
                {
                    'processes': count,
                    'batch of each': 8 // count,
                    's an update': round(update, 3),
                    'images a second': round(8 / update, 1),
                }
            )
    return rows


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sections = ('slots', 'ray', 'planner', 'synthesis', 'ranks')
    parser.add_argument('sections', nargs='*', choices=[*sections, []], help=f'of {", ".join(sections)} (default: all)')
    parser.add_argument('--rounds', type=int, default=3, help='batches of each engine (default: 3)')
    parser.add_argument('--steps', type=int, default=8000, help='steps of a job, about 0.5 ms each (default: 8000)')
    parser.add_argument('--images', type=int, default=100, help='synthetic images (default: 100)')
    parser.add_argument('--iterations', type=int, default=12, help='updates of the two-process training (default: 12)')
    parser.add_argument('--table', action='store_true', help='print the tables of the record and stop')
    args = parser.parse_args()
    args.sections = args.sections or list(sections)
    return args


def main() -> None:
    args = parse_args()
    record = json.loads(RECORD.read_text()) if RECORD.is_file() else {}
    calls = {
        'slots': lambda: slots(args.rounds, args.steps),
        'ray': lambda: ray(args.rounds, args.steps),
        'planner': planner,
        'synthesis': lambda: synthesis(args.images),
        'ranks': lambda: ranks(args.iterations),
    }
    for section in args.sections:
        if not args.table:
            rows = calls[section]()
            record[section] = {
                'metadata': {**environment(('torch', 'ray', 'onedl-mmengine')), 'clock': 'wall time'},
                'results': rows,
            }
            RECORD.parent.mkdir(exist_ok=True)
            RECORD.write_text(json.dumps(record, indent=1) + '\n')
        if section in record:
            facts = record[section]['metadata']
            print(
                f'{section} (commit {facts["commit"]}, load {facts["load_average_1min"]})\n'
                f'{format_table(record[section]["results"])}\n',
                flush=True,
            )


if __name__ == '__main__':
    main()
