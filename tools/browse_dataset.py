"""Draw what a data pipeline really yields: image and label overlay of each sample, with file names and a legend."""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Iterable, Iterator
from itertools import chain, islice, repeat
from pathlib import Path

from mmdefect.command_line import add_config_options, one_line_errors
from mmdefect.extras import stop_without

stop_without('mm')

import cv2
import numpy as np
from mmengine.config import Config
from rich.console import Console
from rich.progress import track

from mmdefect.visualization.grid import image_grid, legend
from mmdefect.visualization.overlay import draw_boxes, overlay_labels

SPLITS = ('train', 'val', 'test')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config', help='leaf config')
    parser.add_argument('--split', choices=SPLITS, default='train')
    parser.add_argument('--count', type=int, default=16, help='samples to draw (default: 16)')
    parser.add_argument('--columns', type=int, default=4, help='samples in a row (default: 4)')
    parser.add_argument('--out', type=Path, default=Path('browse.png'), help='image to write (default: browse.png)')
    parser.add_argument('--seed', type=int, default=0, help='seed of the choice of images and of the augmentation')
    add_config_options(parser)
    args = parser.parse_args()
    if args.count < 1 or args.columns < 1:
        parser.error('--count and --columns must be at least 1')
    return args


def build_dataset(cfg: Config, split: str):
    """Return the data set of one loader, with ``instances`` kept by the pipeline's packing step."""
    from mmengine.registry import init_default_scope

    from mmdefect.apis.compose import iter_datasets, iter_transforms
    from mmdefect.registry import DATASETS, TRANSFORMS

    init_default_scope(cfg.get('default_scope', 'mmseg'))  # as the Runner does: data sets build their own transforms
    loader = cfg.get(f'{split}_dataloader')
    if not loader:
        raise ValueError(
            f'the config must have a `{split}_dataloader`, but {cfg.filename} has none; choose another --split.'
        )
    keys = inspect.signature(TRANSFORMS.get('PackSegInputs')).parameters['meta_keys'].default
    for dataset in iter_datasets(cfg):
        for step in iter_transforms(dataset.get('pipeline') or []):
            if step['type'] == 'PackSegInputs':
                step['meta_keys'] = (*step.get('meta_keys', keys), 'instances')
    return DATASETS.build(loader.dataset)


def draw_samples(dataset, count: int, seed: int, sampler: dict | None = None) -> Iterator[dict]:
    """Yield packed samples; the same seed gives the same ones with the same augmentation.

    ``sampler`` is that of a loader, which decides what training sees; without one they are random images.
    """
    from mmdefect.datasets.seeding import sample_seed, seeded_globals
    from mmdefect.registry import DATA_SAMPLERS

    size = len(dataset)
    numbered = hasattr(dataset, 'set_sample_seed')
    if numbered:
        dataset.set_sample_seed(seed)
    if sampler is None:
        rng = np.random.default_rng(seed)
        order = np.concatenate([rng.permutation(size) for _ in range(-(-count // size))])[:count].tolist()
    else:
        stream = DATA_SAMPLERS.build(sampler, default_args=dict(dataset=dataset, seed=seed))
        order = [i % size for i in islice(chain.from_iterable(repeat(stream)), count)]  # finite ones go on anew
    for k, index in enumerate(order):
        position = k // size if sampler is None else k  # one may draw an image twice in a pass
        with seeded_globals(sample_seed(seed, position, index)):  # for wrappers, which take plain indices only
            yield dataset[position * size + index if numbered else index]


def sample_pair(sample: dict, classes: list[str], palette: list) -> tuple[np.ndarray, str]:
    """Return image and overlay side by side, ``(H, 2 W, 3)`` uint8 RGB, and the caption below them.

    Raises:
        ValueError: if the pipeline yields something else than an image of 8 bits.
    """
    inputs = sample['inputs'].numpy()
    if inputs.dtype != np.uint8 or inputs.shape[0] not in (1, 3):
        raise ValueError(
            f'the pipeline must yield uint8 images of 1 or 3 channels, got {inputs.dtype} of shape '
            f'{inputs.shape}; leave normalising to the data preprocessor.'
        )
    image = np.ascontiguousarray(np.repeat(inputs, 3 // inputs.shape[0], axis=0)[::-1].transpose(1, 2, 0))
    meta = sample['data_samples'].metainfo
    caption = '/'.join(Path(meta.get('img_path') or '').parts[-2:])  # file names repeat between folders
    overlay = image
    if 'gt_sem_seg' in sample['data_samples']:
        label = sample['data_samples'].gt_sem_seg.data.squeeze(0).numpy()
        if label.shape != image.shape[:2]:  # test pipelines keep the label at the size of the file
            image = cv2.resize(image, label.shape[::-1], interpolation=cv2.INTER_LINEAR)
        overlay = overlay_labels(image, label, palette)
        caption += f'   {np.count_nonzero((label > 0) & (label != 255))} px'
    instances = meta.get('instances') or []
    if instances:
        boxes, indices = zip(*map(_box_and_class, instances), strict=True)
        overlay = draw_boxes(overlay, np.array(boxes), indices, palette, classes)
    return np.concatenate([image, np.full((image.shape[0], 2, 3), 255, np.uint8), overlay], axis=1), caption


def _box_and_class(instance) -> tuple[tuple, int]:
    """Return ``box_xyxy`` and ``class_index`` of an instance record, a mapping or an object."""
    fields = (
        instance
        if isinstance(instance, dict)
        else {name: getattr(instance, name, None) for name in ('box_xyxy', 'class_index')}
    )
    if fields.get('box_xyxy') is None or fields.get('class_index') is None:
        raise ValueError(
            f'`instances` must be records with `box_xyxy` and `class_index`, got {instance!r}; '
            'correct the transform that made them.'
        )
    return tuple(fields['box_xyxy']), int(fields['class_index'])


def make_sheet(
    pairs: Iterable[tuple[np.ndarray, str]], classes: list[str], palette: list, columns: int, title: str
) -> np.ndarray:
    """Return the sheet, ``(H, W, 3)`` uint8 RGB."""
    images, captions = zip(*pairs, strict=True)
    rows = [list(images[k : k + columns]) for k in range(0, len(images), columns)]
    texts = [list(captions[k : k + columns]) for k in range(0, len(captions), columns)]
    width = min(columns, len(images)) * max(p.shape[1] for p in images)
    return image_grid(rows, captions=texts, title=title, footer=legend(classes[1:], palette[1:], width=width))


@one_line_errors(ValueError, OSError)
def main() -> int:
    args = parse_args()
    console = Console(stderr=True)
    from mmdefect.apis import load_config

    cfg = load_config(args.config, args.cfg_options, args.recipes)
    dataset = build_dataset(cfg, args.split)
    classes, palette = list(dataset.metainfo['classes']), [tuple(c) for c in dataset.metainfo['palette']]
    sampler = cfg.train_dataloader.get('sampler') if args.split == 'train' else None
    samples = track(draw_samples(dataset, args.count, args.seed, sampler), 'Loading', args.count, console=console)
    sheet = make_sheet(
        (sample_pair(s, classes, palette) for s in samples),
        classes,
        palette,
        args.columns,
        f'{Path(cfg.filename).stem}   {args.split}, {len(dataset)} images',
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(args.out), sheet[..., ::-1]):
        raise OSError(f'{args.out} must be an image that can be written; choose another name or folder.')
    print(args.out)
    return 0


if __name__ == '__main__':
    sys.exit(main())
