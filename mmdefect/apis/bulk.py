"""Bulk work before and after training, side by side: the library of defects, and synthetic images on disk."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import init_default_scope
from PIL import Image

from mmdefect.apis.browse import synthesis_step
from mmdefect.apis.config import load_config
from mmdefect.datasets.donors import library_of
from mmdefect.datasets.seeding import sample_seed
from mmdefect.experiments.bulk import Workers, map_items, track
from mmdefect.experiments.records import read_json, write_bytes, write_json
from mmdefect.experiments.settings import digest
from mmdefect.synthesis.donor_cutting import CuttingRule
from mmdefect.synthesis.donors import DefectLibrary, ImageCuts, LabelledImage, cut_image

#: So many images are tried for one that takes a defect.
TRIES = 50
FACTS = 'synthesis.json'


def build_libraries(
    config: str | Path, cfg_options: dict | None = None, workers: Workers = Workers()
) -> list[DefectLibrary]:
    """Build the libraries of defects that a config pastes from; training then finds them in the cache.

    Args:
        config: leaf config with a recipe that pastes defects.
        cfg_options: overrides, with dotted keys.
        workers: who cuts.

    Raises:
        ValueError: if the config pastes no defects.
    """
    cfg = load_config(config, cfg_options)
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    wanted: list[dict[str, Any]] = []
    for part in (cfg.train_dataloader, cfg.model):
        wanted += [donors for donors in _donors_of(part) if donors not in wanted]
    if not wanted:
        raise ValueError(
            f'{config} must paste defects, but has no PasteDefects with donors; choose a recipe such as '
            'configs/_base_/synthesis/paste_poisson.py.'
        )
    return [library_of(**donors, cut_all=partial(_cut_side_by_side, workers)) for donors in wanted]


def _donors_of(node: Any) -> Iterator[dict[str, Any]]:
    if isinstance(node, dict):
        if node.get('type') == 'PasteDefects' and isinstance(node.get('donors'), dict):
            yield dict(node['donors'])
        else:
            for value in node.values():
                yield from _donors_of(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _donors_of(value)


def _cut_side_by_side(workers: Workers, images: list[LabelledImage], rule: CuttingRule) -> Iterator[ImageCuts]:
    return track(map_items(partial(_make_cutter, rule), images, workers), len(images), 'cutting defects')


def _make_cutter(rule: CuttingRule):
    return partial(cut_image, rule=rule)


def synthesize(
    config: str | Path,
    out: str | Path,
    count: int,
    seed: int = 0,
    cfg_options: dict | None = None,
    workers: Workers = Workers(),
    split: str = 'train',
) -> dict[str, Any]:
    """Write synthetic images with exact labels, as a data set: ``img_dir``, ``ann_dir`` and ``instances``.

    Each image shows at least one synthetic defect, on a training image after the geometric transforms of the config,
    before its photometric ones: a training on these images has its own. Image ``n`` depends on the config, the seed
    and ``n`` only. What is complete is not made again; a larger ``count`` adds images.

    Args:
        config: leaf config with a recipe that makes defects in the workers.
        out: folder of the data set.
        count: number of images.
        seed: of the set.
        cfg_options: overrides, with dotted keys.
        workers: who makes them.
        split: name of the folders below ``img_dir``, ``ann_dir`` and ``instances``.

    Returns:
        ``images``, ``made`` (now), ``defects`` by class name, and ``skipped`` defects by reason.

    Raises:
        ValueError: if the folder holds images of other settings, or an image takes no defect.
    """
    out, config = Path(out), Path(config).absolute()
    if count < 1:
        raise ValueError(f'`count` must be at least 1, got {count}.')
    cfg = load_config(config, cfg_options)
    dataset, _ = synthesis_step(cfg)  # builds the library before workers ask for it
    classes = list(dataset.metainfo['classes'])
    settings = digest(Config(dict(dataset=cfg.train_dataloader.dataset)).to_dict())
    _claim_folder(out, {'settings': settings, 'seed': seed, 'split': split, 'classes': classes})
    make = partial(_make_writer, str(config), cfg_options, out, seed, split)
    result = {'images': count, 'made': 0, 'defects': {}, 'skipped': {}}
    for record in track(map_items(make, range(count), workers), count, 'synthesising'):
        result['made'] += record['made']
        for instance in record['instances']:
            name = classes[instance['class_index']]
            result['defects'][name] = result['defects'].get(name, 0) + 1
        for reason, number in record['skipped'].items():
            result['skipped'][reason] = result['skipped'].get(reason, 0) + number
    return result


def _claim_folder(out: Path, facts: dict[str, Any]) -> None:
    path = out / FACTS
    if path.is_file():
        before = read_json(path)
        changed = [key for key, value in facts.items() if before.get(key) != value]
        if changed:
            raise ValueError(
                f'{out} must hold images of the same settings to go on in it, but {", ".join(changed)} '
                'differ; take another folder, or remove this one.'
            )
    elif out.is_dir() and any(out.iterdir()):
        raise ValueError(f'{out} must be empty or hold images of this tool, but holds other files; take another one.')
    write_json(path, facts)


def _make_writer(config: str, cfg_options: dict | None, out: Path, seed: int, split: str):
    import mmdefect.registration  # noqa: F401  in a new process nothing is registered yet

    dataset, step = synthesis_step(load_config(config, cfg_options))
    dataset.set_sample_seed(seed)
    return partial(_write_image, dataset, step, out, seed, split)


def _write_image(dataset, step, out: Path, seed: int, split: str, number: int) -> dict[str, Any]:
    """Make one image unless it is there; its record is written last and proves that it is complete."""
    name = f'{number:06d}'
    path = out / 'instances' / split / f'{name}.json'
    if path.is_file():
        return {**read_json(path), 'made': 0}
    skipped: dict[str, int] = {}
    for attempt in range(TRIES):
        position = number * TRIES + attempt
        index = sample_seed(seed, position, 0) % len(dataset)
        results = step(dataset[position * len(dataset) + index])
        for reason, times in results.get('synthesis_skipped', {}).items():
            skipped[reason] = skipped.get(reason, 0) + times
        if results.get('instances'):
            break
    else:
        raise ValueError(
            f'a recipe must make defects, but {TRIES} images in a row got none for image {number} '
            f'({skipped or "no reason"}); look at the location prior and the sizes of the donors.'
        )
    write_bytes(out / 'img_dir' / split / f'{name}.png', _png(results['img'][..., ::-1]))
    write_bytes(out / 'ann_dir' / split / f'{name}.png', _png(results['gt_seg_map'].astype(np.uint8)))
    record = {'background': results.get('img_path', ''), 'instances': results['instances'], 'skipped': skipped}
    write_bytes(path, (json.dumps(record) + '\n').encode())
    return {**record, 'made': 1}


def _png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(buffer, 'PNG')
    return buffer.getvalue()
