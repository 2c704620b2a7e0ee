"""What the tests of several processes run in each of them, and in the test itself as the one process to compare with.

As a program: ``python -m tests.integration.ranks FOLDER DATA``, with the variables of a launcher (RANK, WORLD_SIZE);
every rank leaves ``FOLDER/rank<r>.json``.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path

import torch
from mmengine.dist import init_dist
from mmengine.registry import init_default_scope
from mmengine.runner import Runner

import mmdefect.registration  # noqa: F401
from mmdefect.apis import load_config
from mmdefect.engine.samplers import ClassAwareSampler, DefectSampler, MixingSampler
from mmdefect.evaluation import DefectMetric, ViewAccuracy
from mmdefect.ranks import end_rank, leave_group
from mmdefect.registry import DATASETS
from mmdefect.synthesis import library
from tests.helpers.small import quick_options
from tests.helpers.toy_segmentation import CLASSES, ToyData, ToySegmenter

REPO = Path(__file__).resolve().parents[2]
LEAF = 'configs/fast_scnn/fast-scnn_paste-poisson_2k_wta-256.py'
SMALL = {k: v for k, v in quick_options(1, image_scale=(120, 96)).items() if not k.startswith(('train_cfg', 'default'))}
DRAWS = 12


def toy_runtime(name: str, work_dir: Path) -> dict:
    return dict(
        default_scope='mmseg',
        experiment_name=name,
        log_processor=dict(by_epoch=False),
        randomness=dict(seed=0),
        env_cfg=dict(dist_cfg=dict(backend='gloo')),
        cfg=dict(work_dir=str(work_dir)),
    )


def toy_loaders(batch_size: int) -> dict:
    common = dict(num_workers=0, collate_fn=dict(type='pseudo_collate'))
    train = dict(dataset=ToyData(7), batch_size=batch_size, sampler=dict(type='DefectSampler', seed=5), **common)
    sampler = dict(type='DefaultSampler', shuffle=False, round_up=False)
    val = dict(dataset=ToyData(5, seed=1), batch_size=1, sampler=sampler, **common)
    return dict(train_dataloader=train, val_dataloader=val)


def metric_of_shard(rank: int, world_size: int, images: int, folder: Path) -> dict[str, str]:
    """Feed every ``world_size``-th of some images to the metric and return what it says, all digits."""
    metric = DefectMetric(
        'all',
        calibration='fit',
        per_image=str(folder / f'images_{images}.csv'),
        curves=str(folder / f'curves_{images}.json'),
    )
    metric.dataset_meta = dict(classes=CLASSES)
    data = ToyData(images, seed=3)
    for index in range(rank, images, world_size):
        image, label = data.items[index]
        logits = torch.cat([torch.zeros_like(image), image, -image]) + 0.1 * index
        metric.process(
            {},
            [
                dict(
                    pred_sem_seg=dict(data=logits.argmax(0, keepdim=True)),
                    seg_logits=dict(data=logits),
                    gt_sem_seg=dict(data=label[None]),
                    img_path=f'{index}.png',
                )
            ],
        )
    return {name: repr(float(value)) for name, value in metric.evaluate(images).items()}


def view_accuracy_of_shard(rank: int, world_size: int) -> dict[str, str]:
    """Feed every ``world_size``-th of five images, three views each, to the metric of CutPaste."""
    metric, generator = ViewAccuracy(), torch.Generator().manual_seed(0)
    scores = torch.rand(5, 3, 3, generator=generator, dtype=torch.float64).softmax(-1)
    for image in range(rank, 5, world_size):
        metric.process(
            {},
            [
                dict(gt_label=torch.tensor([view]), pred_label=score.argmax(0, keepdim=True), pred_score=score)
                for view, score in enumerate(scores[image])
            ],
        )
    return {name: repr(value) for name, value in metric.evaluate(5).items()}


def train_toy(work_dir: Path, batch_size: int, launcher: str) -> tuple[dict[str, list], dict[str, str]]:
    """Train a toy without batch norm; return its weights, and the metrics of a validation of five images."""

    class UnweightedToy(ToySegmenter):
        def __init__(self) -> None:
            super().__init__()
            self.weight = None  # a mean over classes of one half of a batch is none of the whole

    torch.manual_seed(0)
    runner = Runner(
        UnweightedToy(),
        str(work_dir),
        launcher=launcher,
        **toy_loaders(batch_size),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.3, momentum=0.9)),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=6, val_interval=6),
        val_cfg=dict(),
        val_evaluator=dict(type='DefectMetric', groups=('pixel', 'ranking'), calibration='fit'),
        default_hooks=dict(
            logger=dict(type='LoggerHook', interval=1, log_metric_by_epoch=False),
            checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=3),
        ),
        custom_hooks=[dict(type='CalibrationHook')],
        **toy_runtime('toy', work_dir),
    )
    runner.train()
    model = getattr(runner.model, 'module', runner.model)
    metrics = runner.val_loop.run()
    return (
        {name: value.tolist() for name, value in model.state_dict().items()},
        {name: repr(float(value)) for name, value in metrics.items()},
    )


class NormalizedToy(ToySegmenter):
    """With a batch norm, whose running statistics are those of the images that a rank has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Sequential(
            torch.nn.Conv2d(1, 6, 3, padding=1),
            torch.nn.BatchNorm2d(6, momentum=0.5),
            torch.nn.ReLU(),
            torch.nn.Conv2d(6, 3, 1),
        )


def toy_with_batch_norm(work_dir: Path, launcher: str, checkpoint: str | None = None) -> Runner:
    """Return a runner that trains four updates and validates five images, or that only validates a checkpoint."""
    torch.manual_seed(0)
    runner = Runner(
        NormalizedToy(),
        str(work_dir),
        launcher=launcher,
        load_from=checkpoint,
        **toy_loaders(2),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        val_cfg=dict(),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=4, val_interval=4),
        val_evaluator=dict(type='DefectMetric', groups=('pixel', 'ranking'), calibration='fit'),
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=4)),
        **toy_runtime('norm', work_dir),
    )
    runner.register_hook(dict(type='SyncStatisticsHook'))
    return runner


def train_toy_with_batch_norm(work_dir: Path) -> dict[str, str]:
    """Train on all ranks and return the metrics of the validation."""
    runner = toy_with_batch_norm(work_dir, 'pytorch')
    runner.train()
    return {name: repr(float(value)) for name, value in runner.val_loop.run().items()}


def hashes_of_draws(data_root: Path, count: int) -> list[str]:
    """Return a hash of image and label of the next draws of this rank, with their synthetic defects."""
    cfg = load_config(REPO / LEAF, {'data_root': str(data_root), **SMALL})
    init_default_scope('mmseg')
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    sampler = iter(DefectSampler(dataset, seed=11))
    found = []
    for _ in range(count):
        sample = dataset[next(sampler)]
        label = sample['data_samples'].gt_sem_seg.data
        found.append(hashlib.sha256(sample['inputs'].numpy().tobytes() + label.numpy().tobytes()).hexdigest())
    return found


def positions(data_root: Path, count: int) -> dict[str, list[int]]:
    """Return the numbered draws of this rank from every sampler; the seed is the one that the ranks agree on."""
    cfg = load_config(REPO / LEAF, {'data_root': str(data_root), 'synthesis': None, **SMALL})
    init_default_scope('mmseg')
    found = {}
    for kind, arguments in (
        (DefectSampler, {}),
        (MixingSampler, dict(defective_share=0.25)),
        (ClassAwareSampler, dict(target_share=0.4)),
    ):
        sampler = kind(DATASETS.build(cfg.train_dataloader.dataset), **arguments)
        found[kind.__name__] = [sampler.seed, *(draw for _, draw in zip(range(count), sampler, strict=False))]
    return found


def main() -> None:
    folder, data = Path(sys.argv[1]), Path(sys.argv[2])
    rank, world_size = int(os.environ['RANK']), int(os.environ['WORLD_SIZE'])
    built = []
    build = library.build_library
    library.build_library = lambda *arguments: (built.append(1), build(*arguments))[1]
    init_dist('pytorch', backend='gloo')
    result = {
        'draws': hashes_of_draws(data, DRAWS // world_size),
        'built': len(built),
        'metrics': {images: metric_of_shard(rank, world_size, images, folder) for images in (5, 1)},
        'views': view_accuracy_of_shard(rank, world_size),
        'positions': positions(data, 40),
        'toy': train_toy(folder / 'toy', 2 // world_size, 'pytorch'),
        'norm': train_toy_with_batch_norm(folder / 'norm'),
    }
    (folder / f'rank{rank}.json').write_text(json.dumps(result))
    leave_group()
    end_rank(0)


if __name__ == '__main__':
    main()
