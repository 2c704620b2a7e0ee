"""A segmenter of one convolution on noise, for hooks and loops that are to run in a real mmengine Runner."""

from __future__ import annotations

from typing import ClassVar

import torch
from mmengine.model import BaseModel
from mmengine.runner import Runner
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch.utils.data import Dataset

CLASSES = ('normal', 'attached', 'broken')


class ToyData(Dataset):
    """``count`` images of noise, brighter where class 1 is and darker where class 2 is."""

    metainfo: ClassVar[dict] = dict(classes=CLASSES)

    def __init__(self, count=6, seed=0, size=24):
        generator = torch.Generator().manual_seed(seed)
        self.items = []
        for index in range(count):
            label = torch.zeros(size, size, dtype=torch.long)
            if index % 3 != 2:
                label[3 : 3 + 4 * (1 + index % 2), 4:9] = 1 + index % 2
            image = torch.randn(1, size, size, generator=generator)
            image[0][label == 1] += 2.5
            image[0][label == 2] -= 2.5
            self.items.append((image, label))

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        image, label = self.items[index]
        sample = SegDataSample(gt_sem_seg=PixelData(data=label[None]))
        sample.set_metainfo(dict(img_path=f'{index}.png'))
        return dict(inputs=image, data_samples=sample)


class ToySegmenter(BaseModel):
    """A convolution; its cross entropy weighs defects so much that argmax over-predicts them."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 3, 3, padding=1)
        self.weight = torch.tensor([1.0, 30.0, 30.0])

    def forward(self, inputs, data_samples=None, mode='tensor'):
        logits = self.conv(torch.stack(list(inputs)))
        if mode == 'tensor':
            return logits
        if mode == 'loss':
            label = torch.stack([s.gt_sem_seg.data[0] for s in data_samples])
            return dict(loss=torch.nn.functional.cross_entropy(logits, label, self.weight))
        for sample, logit in zip(data_samples, logits, strict=True):
            sample.seg_logits = PixelData(data=logit)
            sample.pred_sem_seg = PixelData(data=logit.argmax(0, keepdim=True))
        return data_samples


def toy_runner(
    work_dir,
    max_iters=4,
    evaluator=None,
    hooks=(),
    checkpoint=None,
    resume=False,
    load_from=None,
    test_evaluator=None,
    name='toy',
):
    """Return a Runner that trains ``max_iters`` iterations and validates every second one."""
    torch.manual_seed(0)

    def loader(seed):
        return dict(
            dataset=ToyData(seed=seed),
            batch_size=2,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=False),
            collate_fn=dict(type='pseudo_collate'),
        )

    testing = {}
    if test_evaluator is not None:
        testing = dict(test_dataloader=loader(2), test_evaluator=test_evaluator, test_cfg=dict())
    return Runner(
        ToySegmenter(),
        str(work_dir),
        train_dataloader=loader(0),
        val_dataloader=loader(1),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.3)),
        train_cfg=dict(type='IterBasedTrainLoop', max_iters=max_iters, val_interval=2),
        val_cfg=dict(),
        val_evaluator=evaluator or dict(type='DefectMetric', groups=('pixel', 'ranking'), calibration='fit'),
        default_hooks=dict(
            logger=dict(type='LoggerHook', log_metric_by_epoch=False),
            checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2, **(checkpoint or {})),
        ),
        custom_hooks=list(hooks),
        default_scope='mmseg',
        resume=resume,
        load_from=load_from,
        experiment_name=f'{name}',
        log_processor=dict(by_epoch=False),
        randomness=dict(seed=0),
        **testing,
    )
