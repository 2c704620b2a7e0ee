"""A tiny bi-level training in a real Runner: images on disk, a segmentor of mmseg with an auxiliary head, no
weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from mmengine.config import Config

import mmdefect.registration  # noqa: F401
from mmdefect.apis import compose
from tests.helpers.data import save
from tests.helpers.defects import labelled_parts
from tests.helpers.small import TINY_UNET, tiny_head

SIZE = (48, 64)


def write_parts(root: Path, count: int = 12) -> Path:
    """Write images, labels and a split file with train, outer_val, val; each has clean and defective images."""
    splits = {}
    for seed, name in enumerate(('train', 'outer_val', 'val')):
        entries = []
        for index, (image, label) in enumerate(labelled_parts(count if name == 'train' else 6, seed)):
            folder = 'train' if name == 'outer_val' else name
            stem = f'{name}{index}.png'
            save(root / 'img_dir' / folder / stem, image)
            save(root / 'ann_dir' / folder / stem, label)
            entries.append(
                dict(
                    image=f'img_dir/{folder}/{stem}',
                    mask=f'ann_dir/{folder}/{stem}',
                    type='mixed' if label.any() else 'good',
                    sha256=f'{name}{index}',
                )
            )
        splits[name] = entries
    body = dict(format='mmdefect-split/1', protocol=dict(name='fractions'), seed=0, counts={}, notes={}, splits=splits)
    (root / 'outer_splits.json').write_text(json.dumps(body))
    return root


def tiny_config(root: Path, work_dir: Path, max_iters: int = 6, **changes) -> Config:
    """Return a composed config; ``changes`` are settings of ``bilevel``."""
    head = tiny_head(align_corners=False, dropout_ratio=0.2)
    loss = dict(type='CrossEntropyLoss', loss_weight=1.0, class_weight=[0.2, 1.0, 1.0])
    bilevel = dict(
        policy=dict(
            learn=('weights', 'location', 'ranges', 'probabilities'), location=dict(type='net', channels=4, side=16)
        ),
        rates=dict(default=0.05),
        interval=2,
        warm_up=1,
        sparsity=0.01,
        hook=dict(images=2),
    )
    pipeline = [
        dict(type='LoadImageFromFile'),
        dict(type='LoadDefectAnnotations'),
        dict(type='RandomResize', scale=(120, 96), ratio_range=(0.8, 1.2), keep_ratio=True),
        dict(type='RandomCrop', crop_size=SIZE),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PhotoMetricDistortion'),
        dict(type='PackSegInputs'),
    ]
    testing = [
        dict(type='LoadImageFromFile'),
        dict(type='Resize', scale=(120, 96)),
        dict(type='LoadDefectAnnotations'),
        dict(type='PackSegInputs'),
    ]

    def loader(split, steps, batch_size, sampler):
        return dict(
            batch_size=batch_size,
            num_workers=0,
            sampler=sampler,
            dataset=dict(
                type='BladeWTADataset', data_root=str(root), split_file='outer_splits.json', split=split, pipeline=steps
            ),
        )

    cfg = Config(
        dict(
            model=dict(
                type='EncoderDecoder',
                pretrained=None,
                data_preprocessor=dict(
                    type='SegDataPreProcessor',
                    mean=[90.0] * 3,
                    std=[50.0] * 3,
                    bgr_to_rgb=True,
                    size=SIZE,
                    pad_val=0,
                    seg_pad_val=255,
                ),
                backbone=TINY_UNET,
                decode_head=dict(head, loss_decode=loss),
                auxiliary_head=dict(head, in_channels=16, in_index=0, loss_decode=dict(loss, loss_weight=0.4)),
                train_cfg=dict(),
                test_cfg=dict(mode='whole'),
            ),
            train_dataloader=loader('train', pipeline, 4, dict(type='DefectSampler', seed=3)),
            val_dataloader=loader('val', testing, 1, dict(type='DefaultSampler', shuffle=False)),
            val_evaluator=dict(type='DefectMetric', groups=('pixel',)),
            val_cfg=dict(),
            train_cfg=dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=max_iters),
            optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.05, momentum=0.9)),
            synthesis=dict(
                ratio=dict(real=1, synthetic=2, clean=1),
                location=dict(object='foreground'),
                where='device',
                transforms=[
                    dict(type='PasteDefects', policy=dict(places=dict(even=1), max_extent=0.5, min_visible=0.05))
                ],
            ),
            bilevel={**bilevel, **changes},
            default_scope='mmseg',
            work_dir=str(work_dir),
            launcher='none',
            default_hooks=dict(
                checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2),
                logger=dict(type='LoggerHook', interval=1, log_metric_by_epoch=False),
            ),
            log_processor=dict(by_epoch=False),
            randomness=dict(seed=0),
            experiment_name=Path(work_dir).name,
            vis_backends=[dict(type='LocalVisBackend')],
            visualizer=dict(type='SegLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')], name='visualizer'),
        )
    )
    compose(cfg)
    return cfg


def leaves_of(loop) -> np.ndarray:
    """Return all parameters of a policy in one array."""
    return np.concatenate([p.detach().double().flatten().numpy() for p in loop.policy.parameters()])
