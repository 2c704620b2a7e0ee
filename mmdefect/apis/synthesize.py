"""Make the synthetic defects of a config outside a training: one by one to look at, or as a data set on disk."""

import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from mmengine.registry import init_default_scope
from numpy import ndarray
from PIL import Image

from mmdefect.apis.compose import iter_datasets, iter_dicts
from mmdefect.apis.config import load_config
from mmdefect.datasets.donors import library_of
from mmdefect.datasets.seeding import sample_seed
from mmdefect.experiments.bulk import Workers, map_items
from mmdefect.experiments.settings import digest
from mmdefect.files import read_json, write_bytes, write_json
from mmdefect.progress import track
from mmdefect.registry import DATASETS, TRANSFORMS
from mmdefect.synthesis.library import CuttingRule, DefectLibrary, ImageCuts, LabelledImage, cut_image

#: Number of images that are tried for one that takes a defect.
TRIES = 50
FACTS = 'synthesis.json'
HERE = Workers()


@dataclass
class MadeSample:
    """One image of the training pipeline before and after its synthetic defects."""

    before: ndarray  # (H, W, 3) uint8 RGB
    after: ndarray
    label: ndarray  # (H, W) label map after
    instances: list[dict]  # records of the defects
    donors: list[ndarray | None]  # (h, w, 3) uint8 RGB, the donor of each record
    img_path: str
    skipped: dict[str, int] = field(default_factory=dict)  # counts by reason


def synthesis_step(cfg: Config):
    """Return the training data set up to the synthesis step, and the step, which changes every clean image."""
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    step = None
    for dataset in iter_datasets(cfg, ['train']):
        names = [t['type'] for t in dataset.pipeline]
        if 'SynthesizeDefects' in names:
            step = dataset.pipeline[names.index('SynthesizeDefects')]
            dataset.pipeline = dataset.pipeline[: names.index('SynthesizeDefects')]
    if step is None:
        raise ValueError(
            'the config must make defects in the workers, but its training pipeline has no SynthesizeDefects; lay a '
            "synthesis recipe over it (`--with paste_poisson`), with `where='worker'`."
        )
    step = TRANSFORMS.build(dict(step, probability=dict(clean=1.0, defective=0.0)))
    return DATASETS.build(cfg.train_dataloader.dataset), step


def make_samples(dataset, step, count: int, seed: int) -> Iterator[MadeSample]:
    """Yield ``count`` images that got a defect; the same seed gives the same ones."""
    rng, made, since = np.random.default_rng(seed), 0, 0
    dataset.set_sample_seed(seed)
    skipped: dict[str, int] = {}
    for position in range(count * TRIES + TRIES):
        results = dataset[position * len(dataset) + int(rng.integers(len(dataset)))]
        before = results['img'].copy()
        results = step(results)
        reasons, instances = results.get('synthesis_skipped', {}), results.get('instances', [])
        _add(skipped, reasons)
        if not instances:
            since += 1
            if since == TRIES:
                break
            continue
        since, made = 0, made + 1
        images = before[..., ::-1], results['img'][..., ::-1], results['gt_seg_map']
        donors = [_donor(step, record) for record in instances]
        yield MadeSample(*images, instances, donors, results.get('img_path', ''), reasons)
        if made == count:
            return
    raise ValueError(
        f'a recipe must make defects, but {TRIES} images in a row got none ({skipped or "no clean image"}); '
        'look at the location prior and the sizes of the donors.'
    )


def _add(counts: dict[str, int], more: dict[str, int]) -> None:
    for name, number in more.items():
        counts[name] = counts.get(name, 0) + number


def _donor(step, record: dict) -> ndarray | None:
    if record['generator'] != 'paste':
        return None
    index = int(record['parameters']['donor'])
    for library in (t.engine.library for t in step.transforms if hasattr(t, 'engine')):
        if index < len(library) and library[index].source == record['source']:
            return library[index].image
    return None


def build_libraries(
    config: str | Path, cfg_options: dict | None = None, workers: Workers = HERE, recipes: Sequence[str] = ()
) -> list[DefectLibrary]:
    """Build the libraries of defects that a config pastes from; training then finds them in the cache."""
    cfg = load_config(config, cfg_options, recipes)
    init_default_scope(cfg.get('default_scope', 'mmseg'))
    wanted: list[dict[str, Any]] = []
    for node in (node for part in (cfg.train_dataloader, cfg.model) for node in iter_dicts(part)):
        donors = node.get('donors')
        if node.get('type') == 'PasteDefects' and isinstance(donors, dict) and donors not in wanted:
            wanted.append(dict(donors))
    if not wanted:
        raise ValueError(
            f'{config} must paste defects, but has no PasteDefects with donors; lay a recipe over it, such as '
            '`--with paste_poisson`.'
        )
    return [library_of(**donors, cut_all=partial(_cut_side_by_side, workers)) for donors in wanted]


def _cut_side_by_side(workers: Workers, images: list[LabelledImage], rule: CuttingRule) -> Iterator[ImageCuts]:
    return track(map_items(partial(_make_cutter, rule), images, workers), 'cutting defects', len(images))


def _make_cutter(rule: CuttingRule):
    return partial(cut_image, rule=rule)


def synthesize(
    config: str | Path,
    out: str | Path,
    count: int,
    seed: int = 0,
    cfg_options: dict | None = None,
    workers: Workers = HERE,
    split: str = 'train',
    recipes: Sequence[str] = (),
) -> dict[str, Any]:
    """Write synthetic images with exact labels, as a data set: ``img_dir``, ``ann_dir`` and ``instances``.

    Each image shows at least one synthetic defect, on a training image after the geometric transforms of the config,
    before its photometric ones: a training on these images has its own. Image ``n`` depends on the config, the seed
    and ``n`` only. What is complete is not made again; a larger ``count`` adds images.

    Args:
        config, cfg_options, recipes: see :func:`mmdefect.apis.config.load_config`; defects are made in the workers.
        out: folder of the data set.
        count: number of images.
        seed: of the set.
        workers: who makes them.
        split: name of the folders below ``img_dir``, ``ann_dir`` and ``instances``.

    Returns:
        ``images``, ``made`` (now), ``defects`` by class name, and ``skipped`` defects by reason.

    Raises:
        ValueError: if the folder holds images of other settings, or an image takes no defect.
    """
    if count < 1:
        raise ValueError(f'`count` must be at least 1, got {count}.')
    out, load = Path(out), partial(load_config, Path(config).absolute(), cfg_options, tuple(recipes))
    cfg = load()
    dataset, _ = synthesis_step(cfg)  # builds the library before workers ask for it
    classes = list(dataset.metainfo['classes'])
    settings = digest(Config(dict(dataset=cfg.train_dataloader.dataset)).to_dict())
    _claim_folder(out, {'settings': settings, 'seed': seed, 'split': split, 'classes': classes})
    make = partial(make_writer, load, out, seed, split)
    result = {'images': count, 'made': 0, 'defects': {}, 'skipped': {}}
    for record in track(map_items(make, range(count), workers), 'synthesising', count):
        result['made'] += record['made']
        for instance in record['instances']:
            _add(result['defects'], {classes[instance['class_index']]: 1})
        _add(result['skipped'], record['skipped'])
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


def make_writer(load: Callable[[], Config], out: Path, seed: int, split: str):
    """Return a function that writes one image by its number, for a worker process."""
    import mmdefect.registration  # noqa: F401  (in a new process nothing is registered yet)

    dataset, step = synthesis_step(load())
    dataset.set_sample_seed(seed)
    return partial(_write_image, dataset, step, out, seed, split)


def _write_image(dataset, step, out: Path, seed: int, split: str, number: int) -> dict[str, Any]:
    """Make one image unless it is there; its record is written last and proves that it is complete."""
    name = f'{number:06d}'
    path = out / 'instances' / split / f'{name}.json'
    if path.is_file():
        return {**read_json(path), 'made': 0}
    skipped: dict[str, int] = {}
    for position in range(number * TRIES, (number + 1) * TRIES):
        index = sample_seed(seed, position, 0) % len(dataset)
        results = step(dataset[position * len(dataset) + index])
        _add(skipped, results.get('synthesis_skipped', {}))
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


def _png(array: ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(buffer, 'PNG')
    return buffer.getvalue()
