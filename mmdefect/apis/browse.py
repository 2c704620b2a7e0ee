"""Make the synthetic defects of a config one by one, with the image before each: what browse_synthesis shows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from mmengine.config import Config
from mmengine.registry import init_default_scope
from numpy import ndarray

from mmdefect.apis.config import iter_datasets
from mmdefect.registry import DATASETS, TRANSFORMS


@dataclass
class MadeSample:
    """One image of the training pipeline before and after its synthetic defects.

    Attributes:
        before, after: ``(H, W, 3)`` uint8 RGB.
        label: ``(H, W)`` label map after.
        instances: records of the defects.
        donors: ``(h, w, 3)`` uint8 RGB, the donor of each record, ``None`` where there is none.
        img_path: file of the image.
        skipped: counts by reason.
    """

    before: ndarray
    after: ndarray
    label: ndarray
    instances: list[dict]
    donors: list[ndarray | None]
    img_path: str
    skipped: dict[str, int] = field(default_factory=dict)


def synthesis_step(cfg: Config):
    """Return the training data set up to the synthesis step, and the step.

    Raises:
        ValueError: if the config makes no defects in its training pipeline.
    """
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    step = None
    for dataset in iter_datasets(Config(dict(train_dataloader=cfg.train_dataloader))):
        names = [t['type'] for t in dataset.pipeline]
        if 'SynthesizeDefects' in names:
            step = dataset.pipeline[names.index('SynthesizeDefects')]
            dataset.pipeline = dataset.pipeline[: names.index('SynthesizeDefects')]
    if step is None:
        raise ValueError(
            'the config must make defects in the workers, but its training pipeline has no '
            "SynthesizeDefects; choose one with a synthesis recipe, and `where='worker'`."
        )
    return DATASETS.build(cfg.train_dataloader.dataset), TRANSFORMS.build(
        dict(step, probability=dict(clean=1.0, defective=0.0))
    )


def make_samples(dataset, step, count: int, seed: int) -> Iterator[MadeSample]:
    """Yield ``count`` images that got a defect; the same seed gives the same ones.

    Raises:
        ValueError: if none of 50 images in a row gets a defect; the reasons are in the message.
    """
    rng, made, since = np.random.default_rng(seed), 0, 0
    dataset.set_sample_seed(seed)
    skipped: dict[str, int] = {}
    for position in range(count * 50 + 50):
        results = dataset[position * len(dataset) + int(rng.integers(len(dataset)))]
        before = results['img'].copy()
        results = step(results)
        for reason, number in results.get('synthesis_skipped', {}).items():
            skipped[reason] = skipped.get(reason, 0) + number
        instances = results.get('instances', [])
        if not instances:
            since += 1
            if since == 50:
                break
            continue
        since, made = 0, made + 1
        yield MadeSample(
            before[..., ::-1],
            results['img'][..., ::-1],
            results['gt_seg_map'],
            instances,
            [_donor(step, record) for record in instances],
            results.get('img_path', ''),
            results.get('synthesis_skipped', {}),
        )
        if made == count:
            return
    raise ValueError(
        f'a recipe must make defects, but 50 images in a row got none ({skipped or "no clean image"}); '
        'look at the location prior and the sizes of the donors.'
    )


def _donor(step, record: dict) -> ndarray | None:
    if record['generator'] != 'paste':
        return None
    libraries = [t.engine.library for t in step.transforms if hasattr(t, 'engine')]
    index = int(record['parameters']['donor'])
    for library in libraries:
        if index < len(library) and library[index].source == record['source']:
            return library[index].image
    return None
