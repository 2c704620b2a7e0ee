"""What an outer step costs: its time in inner steps, its memory beside plain training, and the whole training at k = 7.

    python benchmarks/bilevel.py                       # Fast-SCNN and a U-Net at 256, batch 4
    python benchmarks/bilevel.py --models fast-scnn --seconds 20

Inner and outer steps of one model run in turns on the same batches, with all that belongs to them: making the defects,
the policy, the optimisers. Loading images does not: it is the same for both. Peak memory is that of a fresh process a
case, above what is allocated before the first step; every case does the same number of inner steps.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
import common

INTERVAL = 7
ESTIMATORS = dict(
    one_step=dict(name='one_step'),
    neumann_1=dict(name='neumann', terms=1, products='difference'),
    neumann_3=dict(name='neumann', terms=3, products='difference'),
    neumann_3_exact=dict(name='neumann', terms=3, products='exact'),
)
MODELS = {
    'fast-scnn': '_base_/models/fast_scnn.py',
    'fpn-r18': '_base_/models/fpn_r18.py',
    'unet': '_base_/models/unet.py',
}


def make_loop(
    model: str, folder: Path, size: int, batch_size: int, estimator: dict, plain: bool = False, share: float = 0.5
):
    """Return a loop that is ready for its steps, and one batch of synthetic parts."""
    from mmengine.config import Config
    from mmengine.runner import Runner

    import mmdefect.registration  # noqa: F401
    from mmdefect.apis import compose
    from mmdefect.apis.train import prepare_train_config

    root = Path(__file__).resolve().parents[1]
    cfg = Config.fromfile(str(root / 'configs' / MODELS[model]))
    split = dict(type='BladeWTADataset', data_root=str(folder), split_file='splits.json')
    steps = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadDefectAnnotations'),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackSegInputs'),
    ]
    cfg.merge_from_dict(
        dict(
            crop_size=(size, size),
            num_classes=3,
            default_scope='mmseg',
            work_dir=str(folder / 'work'),
            launcher='none',
            env_cfg=dict(dist_cfg=dict(backend='gloo')),
            val_cfg=dict(type='ValLoop'),
            train_dataloader=dict(
                batch_size=batch_size,
                num_workers=0,
                sampler=dict(type='DefectSampler', seed=1),
                dataset=dict(split, split='train', pipeline=steps),
            ),
            val_dataloader=dict(
                batch_size=1,
                num_workers=0,
                sampler=dict(type='DefaultSampler', shuffle=False),
                dataset=dict(split, split='val', pipeline=steps),
            ),
            val_evaluator=dict(type='DefectMetric', groups=('pixel',)),
            experiment_name='benchmark',
            log_level='ERROR',
            train_cfg=dict(type='IterBasedTrainLoop', max_iters=100, val_interval=100),
            optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.001)),
            synthesis=dict(
                ratio=dict(real=1, synthetic=2, clean=1),
                location=dict(object='frame'),
                where='device',
                transforms=[dict(type='PasteDefects', policy=dict(places=dict(even=1), min_inside=0.0))],
            ),
            bilevel=dict(
                policy=dict(learn=('weights', 'location'), location=dict(type='net')),
                estimator=estimator,
                interval=INTERVAL,
                warm_up=0,
                curvature_share=share,
                outer=dict(batch_size=batch_size),
            ),
        )
    )
    if plain:
        cfg.bilevel = None
    compose(cfg)
    runner = Runner.from_cfg(prepare_train_config(cfg, folder / 'work'))
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    runner.optim_wrapper = runner.build_optim_wrapper(runner.optim_wrapper)
    loop = runner.train_loop
    runner.model.train()
    return loop, next(iter(loop.dataloader))


def inner_step(loop, batch) -> None:
    """One step of plain training with synthesis, as mmengine does it."""
    from mmdefect.engine.loops.bilevel_loop import copy_batch

    loop.runner.model.train_step(copy_batch(batch), optim_wrapper=loop.runner.optim_wrapper)


def policy_step(loop, batch) -> None:
    """One inner step of the bi-level loop."""
    from mmdefect.engine.loops.bilevel_loop import copy_batch

    loop.inner_step(copy_batch(batch))


def outer_step(loop, batch) -> None:
    from mmdefect.engine.loops.bilevel_loop import copy_batch

    loop.outer_step(copy_batch(batch))


def write_images(folder: Path, size: int, count: int) -> None:
    """Write parts with and without defects and a split file; plain NumPy, the same for every case."""
    import cv2
    import numpy as np

    rng = np.random.default_rng(0)
    splits = {}
    for name in ('train', 'outer_val', 'val'):
        splits[name] = []
        for index in range(count):
            image = np.clip(110 + rng.normal(0, 8, (size, size, 3)), 0, 255).astype(np.uint8)
            label = np.zeros((size, size), np.uint8)
            if index % 3 == 0:
                row, column = rng.integers(20, size - 40, 2)
                label[row : row + 12, column : column + 9] = 1 + index % 2
                image[label > 0] = 220
            for kind, array in (('img_dir', image), ('ann_dir', label)):
                (folder / kind / name).mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(folder / kind / name / f'{index}.png'), array)
            splits[name].append(
                dict(
                    image=f'img_dir/{name}/{index}.png',
                    mask=f'ann_dir/{name}/{index}.png',
                    type='mixed' if label.any() else 'good',
                    sha256=f'{name}{index}',
                )
            )
    (folder / 'splits.json').write_text(
        json.dumps(
            dict(format='mmdefect-split/1', protocol=dict(name='fractions'), seed=0, counts={}, notes={}, splits=splits)
        )
    )


def peak_megabytes(model: str, folder: Path, size: int, batch_size: int, case: str, share: float) -> float:
    """Return the peak of resident memory during steps above that before them, in a process of its own."""
    command = [
        sys.executable,
        __file__,
        '--measure',
        case,
        '--models',
        model,
        '--size',
        str(size),
        '--batch-size',
        str(batch_size),
        '--folder',
        str(folder),
        '--curvature-share',
        str(share),
    ]
    answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode:
        raise RuntimeError(f'measuring {case} of {model} failed:\n{answer.stderr[-2000:]}')
    return float(answer.stdout.split()[-1])


def resident_megabytes(key: str) -> float:
    line = next(row for row in Path('/proc/self/status').read_text().splitlines() if row.startswith(key))
    return int(line.split()[1]) / 1024


def measure(args: argparse.Namespace) -> None:
    plain = args.measure == 'plain'
    loop, batch = make_loop(
        args.models[0],
        args.folder,
        args.size,
        args.batch_size,
        ESTIMATORS.get(args.measure, ESTIMATORS['one_step']),
        plain,
        args.curvature_share,
    )
    if not plain:
        loop.preprocessor.set_synthesis(loop.synthesis)
    before = resident_megabytes('VmRSS')
    for _ in range(2):
        inner_step(loop, batch) if plain else policy_step(loop, batch)
    if not plain:
        outer_step(loop, batch)
    print(resident_megabytes('VmHWM') - before)


def run_model(model: str, folder: Path, args: argparse.Namespace) -> list[dict]:
    from mmdefect.functional.bilevel import make_estimator

    names = [name for name in ESTIMATORS if not args.only or name in args.only]
    loop, batch = make_loop(model, folder, args.size, args.batch_size, ESTIMATORS[names[0]], share=args.curvature_share)
    recipe = loop.preprocessor._synthesize

    def plain() -> None:  # the recipe as it was before the loop took its place
        loop.preprocessor.set_synthesis(recipe)
        inner_step(loop, batch)
        loop.preprocessor.set_synthesis(loop.synthesis)

    def outer(name: str) -> None:
        loop.estimator = make_estimator(**ESTIMATORS[name])
        outer_step(loop, batch)

    loop.preprocessor.set_synthesis(loop.synthesis)
    contestants = {'plain': plain, 'inner': lambda: policy_step(loop, batch)}
    contestants |= {name: (lambda name=name: outer(name)) for name in names}
    times = common.race(contestants, args.seconds, warm_up=1, most=args.most)
    plain_ms = times['plain']['median_ms']
    base = (
        peak_megabytes(model, folder, args.size, args.batch_size, 'plain', args.curvature_share)
        if not args.no_memory
        else 0.0
    )
    rows = []
    for name in names:
        outer_ms, inner_ms = times[name]['median_ms'], times['inner']['median_ms']
        peak = (
            peak_megabytes(model, folder, args.size, args.batch_size, name, args.curvature_share)
            if not args.no_memory
            else 0.0
        )
        rows.append(
            dict(
                model=model,
                estimator=name,
                plain_ms=plain_ms,
                inner_over_plain=inner_ms / plain_ms,
                outer_over_plain=outer_ms / plain_ms,
                training_at_k7=(INTERVAL * inner_ms + outer_ms) / (INTERVAL * plain_ms),
                memory_over_plain=peak / base if base else None,
                peak_mb=round(peak),
                calls=times[name]['calls'],
            )
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--models', nargs='+', choices=MODELS, default=['fast-scnn', 'fpn-r18'])
    parser.add_argument('--only', nargs='+', choices=ESTIMATORS, help='estimators (default: all)')
    parser.add_argument('--size', type=int, default=256)
    parser.add_argument('--batch-size', type=int, default=4)
    parser.add_argument('--curvature-share', type=float, default=0.5, help='of the batch (default: half)')
    parser.add_argument('--seconds', type=float, default=10, help='for each step of each model')
    parser.add_argument('--most', type=int, default=15)
    parser.add_argument('--no-memory', action='store_true')
    parser.add_argument('--name', default='bilevel', help='of the record')
    parser.add_argument('--measure', help=argparse.SUPPRESS)
    parser.add_argument('--folder', type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    common.use_one_thread()
    if args.measure:
        measure(args)
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ['MMDEFECT_CACHE'] = f'{folder}/cache'
        write_images(Path(folder), args.size, 3 * args.batch_size)
        rows = [row for model in args.models for row in run_model(model, Path(folder), args)]
    common.write_record(
        args.name,
        rows,
        dict(size=args.size, batch_size=args.batch_size, interval=INTERVAL, curvature_share=args.curvature_share),
    )
    print(common.format_table([{k: v for k, v in row.items() if v is not None} for row in rows]))


if __name__ == '__main__':
    main()
