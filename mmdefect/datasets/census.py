"""What a set of labelled images holds: the count, what is worth a look, and a suggested crop size and class weights.

Nothing of a framework is used here: files in, numbers and text out. Components are 8-connected.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import cv2
import numpy as np
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mmdefect.datasets.file_facts import image_facts
from mmdefect.datasets.folder import FolderDescription
from mmdefect.datasets.masks import IGNORE, decode_mask, describe_wrong_size, label_from_raw
from mmdefect.datasets.near_duplicates import exact_duplicates, merge_groups, near_duplicates, thumbnail
from mmdefect.datasets.samples import GOOD, UNKNOWN, Sample, relative_path

#: Components up to this many pixels count as tiny: a stride-4 feature map hardly sees them.
TINY_AREA = 16
QUANTILES = (0, 10, 50, 90, 95, 100)
CROP_STEP, CROP_MIN, CROP_MAX, CROP_DEFECTS = 32, 256, 512, 4
WEIGHT_RANGE = (1.0, 10.0)
#: Columns of the printed census.
WIDTH = 96
_SHOWN = 3


@dataclass(frozen=True)
class ImageRecord:
    """What one image contributes; paths are relative to the root."""

    image: str
    mask: str | None
    split: str | None  # that its folder puts it in
    defect_type: str  # by folder or name, 'good' or 'unknown'
    size_hw: tuple[int, int]
    sha256: str  # of the image file
    pixels: tuple[int, ...]  # of each class, normal first; ignored ones are in none
    ignored: int
    components: np.ndarray  # see list_components
    odd_values: dict[int, int]  # pixels of the values of a 'binary' mask beside its two most frequent ones
    thumbnail: np.ndarray  # see near_duplicates.thumbnail


@dataclass(frozen=True)
class ClassCensus:
    """One defect class; a class without components has no quantiles (of :data:`QUANTILES`)."""

    name: str
    images: int
    pixels: int
    share: float
    components: int
    tiny: int
    area_px: tuple[float, ...]
    area_share: tuple[float, ...]  # of the image
    longest_side_px: tuple[float, ...]  # of the bounding box


@dataclass(frozen=True)
class Suggestion:
    """Settings derived from the census, each with its reason."""

    crop_size_hw: tuple[int, int]
    crop_reason: str
    class_weight: tuple[float, ...]
    class_weight_reason: str
    focal_alpha: tuple[float, ...]


@dataclass(frozen=True)
class Census:
    """The whole count, see :func:`take_census`; paths are relative to the root."""

    root: str
    images: int
    with_mask: int
    clean: int  # images without a defect pixel
    sizes_wh: dict[tuple[int, int], int]  # images by width and height, the most frequent first
    median_size_hw: tuple[int, int]
    normal_share: float  # of the pixels that are not ignored
    ignored_share: float
    classes: tuple[ClassCensus, ...]  # without the normal class
    imbalance: float  # normal pixels for one pixel of the rarest class that occurs; infinite without defects
    odd_masks: dict[str, dict[int, int]]  # see ImageRecord.odd_values
    exact_duplicates: tuple[tuple[str, ...], ...]
    near_duplicates: tuple[tuple[str, ...], ...]  # they contain the exact ones they touch
    splits: dict[str, int]  # images in each split that the folders make
    groups_across_splits: tuple[tuple[str, ...], ...]  # duplicates of either kind in several of these splits
    suggestion: Suggestion
    orphan_masks: tuple[str, ...] = ()  # masks without an image
    unmasked_images: tuple[str, ...] = ()  # images without a mask that were left out
    types: dict[str, str] = field(default_factory=dict)  # by image: of folder or name, else its rarest class or good
    hashes: dict[str, str] = field(default_factory=dict)  # SHA-256 by image

    def to_dict(self) -> dict:
        """Return the census as JSON can hold it; per-image types and hashes are left out."""
        body = {key: value for key, value in asdict(self).items() if key not in ('types', 'hashes')}
        body['sizes_wh'] = [{'width': w, 'height': h, 'images': n} for (w, h), n in self.sizes_wh.items()]
        body['odd_masks'] = {file: {str(v): n for v, n in values.items()} for file, values in self.odd_masks.items()}
        body['quantiles'] = list(QUANTILES)
        return body


def take_census(
    samples: Sequence[Sample],
    classes: Sequence[str],
    root: str | os.PathLike,
    orphan_masks: Sequence[str] = (),
    unmasked_images: Sequence[str] = (),
    track: Callable[[Iterable], Iterable] = iter,
) -> Census:
    """Read every image and mask once and count.

    Args:
        samples: images with their label sources.
        classes: class names, the normal class first.
        root: folder that paths are given relative to.
        orphan_masks, unmasked_images: masks without an image and left-out images, reported only.
        track: wraps the loop over the images, for a progress bar.

    Raises:
        ValueError: if a file cannot be read, sizes differ, or a mask holds values outside the classes; the message
            names the first such file and how many there are.
    """

    def read(sample: Sample) -> ImageRecord | ValueError:
        try:
            return _take_record(sample, len(classes), str(root))
        except ValueError as err:
            return err  # the user sees how many there are, and can fix them in one go

    with ThreadPoolExecutor(2) as pool:
        records = list(track(pool.map(read, samples)))
    errors = [r for r in records if isinstance(r, ValueError)]
    if errors:
        more = f' ({len(errors) - 1} more files of {len(samples)} have such a problem, too.)' if len(errors) > 1 else ''
        raise ValueError(f'{errors[0]}{more}') from errors[0]
    return _summarise(records, classes, str(root), tuple(orphan_masks), tuple(unmasked_images))


def list_components(label: np.ndarray) -> np.ndarray:
    """Return ``(n, 4)`` int64 rows of class, area, height and width of the 8-connected components of the defects.

    Args:
        label: ``(H, W)`` uint8; 0 and 255 are no defect.
    """
    rows = [np.empty((0, 4), np.int64)]
    for value in sorted(set(np.unique(label).tolist()) - {0, IGNORE}):
        stats = cv2.connectedComponentsWithStats((label == value).astype(np.uint8), connectivity=8)[2][1:]
        columns = stats[:, [cv2.CC_STAT_AREA, cv2.CC_STAT_HEIGHT, cv2.CC_STAT_WIDTH]]
        rows.append(np.column_stack([np.full(len(stats), value), columns]))
    return np.concatenate(rows).astype(np.int64)


def suggest_crop(sides_hw: np.ndarray, image_hw: tuple[int, int]) -> tuple[tuple[int, int], str]:
    """Suggest height and width of a training crop, with the reason in one sentence.

    The side is four times the longest side that 95 % of the defect components stay below, so that a defect is seen with
    its surroundings; at least 256, where the deepest features of the stock models (stride 32) still have 8x8 cells; at
    most 512; no side longer than the image; rounded up to a multiple of 32.

    Args:
        sides_hw: ``(n, 2)`` heights and widths of the bounding boxes of the components.
        image_hw: median size of the images.
    """
    longest = float(np.percentile(sides_hw.max(axis=1), 95)) if len(sides_hw) else 0.0
    side = CROP_DEFECTS * longest
    wanted = _round_up(min(max(side, CROP_MIN), CROP_MAX))
    crop = tuple(min(wanted, _round_up(length)) for length in image_hw)
    reason = f'95 % of the defects are at most {longest:.0f} px long; {CROP_DEFECTS} times that is {side:.0f}'
    if side < CROP_MIN:
        reason += f', raised to {CROP_MIN} (8x8 cells at stride 32)'
    elif side > CROP_MAX:
        reason += f', limited to {CROP_MAX}'
    if crop != (wanted, wanted):
        reason += f', and no side exceeds the median image, {image_hw[1]}x{image_hw[0]}'
    return crop, reason + f'; rounded up to a multiple of {CROP_STEP}.'


def suggest_weights(pixels: Sequence[int]) -> tuple[tuple[float, ...], str, tuple[float, ...]]:
    """Suggest class weights for cross entropy, with their formula, and alpha for focal losses.

    ``weight_c = clip(sqrt(pixels_normal / pixels_c), 1, 10)``, 1 for the normal class and for classes without pixels;
    ``alpha = weight / sum(weight)``. The root keeps the rarest class from drowning the others, the upper end from
    turning every bright pixel into a defect.

    Args:
        pixels: number of pixels of each class, the normal one first.
    """
    low, high = WEIGHT_RANGE
    pixels = [int(p) for p in pixels]
    weights = [1.0, *(round(min(max((pixels[0] / p) ** 0.5, low), high), 2) if p else 1.0 for p in pixels[1:])]
    formula = f'sqrt(normal pixels / class pixels), clipped to {low:g}..{high:g}; the normal class has 1.'
    return tuple(weights), formula, tuple(round(w / sum(weights), 4) for w in weights)


def _round_up(value: float) -> int:
    return int(-(-value // CROP_STEP) * CROP_STEP)


def _take_record(sample: Sample, num_classes: int, root: str) -> ImageRecord:
    """Read one image and its mask; raise a ``ValueError`` if a file is damaged or has a wrong size or wrong values."""
    path, mask, encoding = sample.img_path, sample.seg_map_path, sample.mask_encoding
    image_facts(path)  # OpenCV decodes half a JPEG without a word
    data = Path(path).read_bytes()
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None:
        raise ValueError(f'the image {path} must be readable, but decoding fails; replace the file.')
    label, odd = np.zeros(image.shape[:2], np.uint8), {}
    if mask is not None:
        raw = decode_mask(Path(mask).read_bytes(), encoding, mask)
        if raw.shape[:2] != image.shape[:2]:
            raise ValueError(describe_wrong_size(mask, path, raw.shape, image.shape))
        label = label_from_raw(raw, encoding, mask, num_classes, sample.class_id, sample.palette)
        odd = _odd_values(raw) if encoding == 'binary' else {}
    counts = np.bincount(label.ravel(), minlength=256).tolist()
    return ImageRecord(
        image=relative_path(path, root),
        mask=None if mask is None else relative_path(mask, root),
        split=sample.own_split,
        defect_type=sample.defect_type,
        size_hw=image.shape[:2],
        sha256=hashlib.sha256(data).hexdigest(),
        pixels=tuple(counts[:num_classes]),
        ignored=counts[IGNORE],
        components=list_components(label),
        odd_values=odd,
        thumbnail=thumbnail(image),
    )


def _odd_values(raw: np.ndarray) -> dict[int, int]:
    """Count the values of a black-and-white mask that are neither 0 nor its most frequent other value."""
    values, counts = np.unique(raw, return_counts=True)
    marked = {int(v): int(n) for v, n in zip(values, counts, strict=True) if v != 0}
    white = max(marked, key=lambda v: (marked[v], v), default=None)
    return {v: n for v, n in marked.items() if v != white}


def _summarise(
    records: Sequence[ImageRecord], classes: Sequence[str], root: str, orphans: tuple[str, ...], bare: tuple[str, ...]
) -> Census:
    """Turn the records of single images into a census."""
    pixels = np.array([r.pixels for r in records], np.int64).sum(axis=0)
    counted, ignored = int(pixels.sum()), sum(r.ignored for r in records)
    components = np.concatenate(  # rows of class, area, height, width and pixels of the image
        [np.column_stack([r.components, np.full(len(r.components), r.size_hw[0] * r.size_hw[1])]) for r in records]
    )
    median_hw = tuple(int(v) for v in np.median([r.size_hw for r in records], axis=0))
    same, alike = _duplicates(records)
    split = {r.image: r.split for r in records}
    defects = [p for p in pixels[1:] if p > 0]
    return Census(
        root=root,
        images=len(records),
        with_mask=sum(r.mask is not None for r in records),
        clean=sum(not any(r.pixels[1:]) for r in records),
        sizes_wh=dict(Counter((r.size_hw[1], r.size_hw[0]) for r in records).most_common()),
        median_size_hw=median_hw,
        normal_share=float(pixels[0] / max(counted, 1)),
        ignored_share=ignored / max(counted + ignored, 1),
        classes=tuple(_class_census(name, k, records, pixels, components) for k, name in enumerate(classes) if k),
        imbalance=float(pixels[0] / min(defects)) if defects else float('inf'),
        odd_masks={r.mask: r.odd_values for r in records if r.odd_values},
        exact_duplicates=same,
        near_duplicates=alike,
        splits=dict(Counter(r.split for r in records if r.split is not None)),
        groups_across_splits=tuple(g for g in (*same, *alike) if len({split[i] for i in g} - {None}) > 1),
        suggestion=Suggestion(*suggest_crop(components[:, 2:4], median_hw), *suggest_weights(pixels)),
        orphan_masks=orphans,
        unmasked_images=bare,
        types=_types(records, classes),
        hashes={r.image: r.sha256 for r in records},
    )


def _class_census(
    name: str, index: int, records: Sequence[ImageRecord], pixels: np.ndarray, components: np.ndarray
) -> ClassCensus:
    own = components[components[:, 0] == index]
    area = own[:, 1]

    def quantiles(values: np.ndarray) -> tuple[float, ...]:
        return tuple(np.percentile(values, QUANTILES).tolist()) if len(own) else ()

    return ClassCensus(
        name,
        sum(r.pixels[index] > 0 for r in records),
        int(pixels[index]),
        float(pixels[index] / max(pixels.sum(), 1)),
        len(own),
        int((area <= TINY_AREA).sum()),
        quantiles(area),
        quantiles(area / own[:, 4]),
        quantiles(own[:, 2:4].max(axis=1)),
    )


def _duplicates(records: Sequence[ImageRecord]) -> list[tuple[tuple[str, ...], ...]]:
    """Group exact and near duplicates; a near group contains the exact ones it touches."""
    same = exact_duplicates([r.sha256 for r in records])
    alike = near_duplicates(np.stack([r.thumbnail for r in records]))
    alike = [group for group in merge_groups(len(records), same, alike) if group not in same]
    return [tuple(tuple(records[i].image for i in group) for group in groups) for groups in (same, alike)]


def _types(records: Sequence[ImageRecord], classes: Sequence[str]) -> dict[str, str]:
    """Name the type of each image. The rarest class of several is what a stratified split must spread."""
    images = np.array([[p > 0 for p in r.pixels] for r in records]).sum(axis=0)
    types = {}
    for record in records:
        present = [k for k in range(1, len(classes)) if record.pixels[k]]
        rarest = classes[min(present, key=lambda k: (images[k], k))] if present else GOOD
        types[record.image] = record.defect_type if present and record.defect_type not in (UNKNOWN, GOOD) else rarest
    return types


def make_console(file=None) -> Console:
    """Return a console of at most 96 columns, whatever the terminal; pipes get the same text without colours."""
    console = Console(file=file, highlight=False, soft_wrap=False)
    console.width = min(console.width if console.is_terminal else WIDTH, WIDTH)
    return console


def print_census(census: Census, console: Console, description: FolderDescription | None = None) -> None:
    """Print what was found, then what is worth a look, then the suggestions."""
    console.rule(f'[bold]census of {escape(census.root)}', align='left')
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style='bold', no_wrap=True)
    facts.add_column()
    for name, text in _facts(census, description):
        facts.add_row(name, escape(text))
    console.print(facts)
    console.print(_class_table(census))
    findings = list_findings(census)
    if findings:
        console.print('[bold]worth a look')
    for finding in findings:
        console.print(_item(finding))
    console.print('[bold]suggested')
    suggestion = census.suggestion
    height, width = suggestion.crop_size_hw
    console.print(_item(f'crop {width}x{height} (width x height): {suggestion.crop_reason}'))
    names = ('normal', *(c.name for c in census.classes))
    weights = ', '.join(f'{name} {w:g}' for name, w in zip(names, suggestion.class_weight, strict=True))
    console.print(_item(f'class weights {weights}: {suggestion.class_weight_reason}'))
    alpha = ', '.join(f'{v:g}' for v in suggestion.focal_alpha)
    console.print(_item(f'focal alpha [{alpha}]: the same weights, scaled to the sum 1.'))


def list_findings(census: Census) -> list[str]:
    """Say in sentences what the owner of the data should look at."""
    findings = []
    if census.unmasked_images:
        findings.append(
            f'{_count(census.unmasked_images, "image")} outside good/ without a mask, left out: '
            f'{_some(census.unmasked_images)}. If they are free of defects, run again with --unmasked clean.'
        )
    if census.orphan_masks:
        orphans = _count(census.orphan_masks, 'mask')
        findings.append(f'{orphans} without an image, left out: {_some(census.orphan_masks)}.')
    empty = [c.name for c in census.classes if not c.pixels]
    if empty:
        findings.append(f'no pixel of {", ".join(empty)}: a class that is never drawn cannot be learned.')
    few = [f'{c.name} ({c.images})' for c in census.classes if 0 < c.images < 10]
    if few:
        findings.append(f'fewer than 10 images of {", ".join(few)}: numbers for it will be uncertain.')
    if census.odd_masks:
        file, values = next(iter(census.odd_masks.items()))
        shown = _some([f'{v} ({n} px)' for v, n in values.items()])
        masks = _count(census.odd_masks, 'mask')
        findings.append(f'{masks} with values besides black and white, which count as defect: {file}: {shown}.')
    if census.ignored_share:
        findings.append(f'{census.ignored_share:.3%} of the pixels are 255 (ignore): neither trained nor tested.')
    across = census.groups_across_splits
    if census.exact_duplicates:
        apart = next((g for g in census.exact_duplicates if g in across), None)
        where = ', some in different split folders' if apart else ''
        files = ' = '.join((apart or census.exact_duplicates[0])[:_SHOWN])
        findings.append(f'{_count(census.exact_duplicates, "group")} of files with the same content{where}: {files}.')
    if census.near_duplicates:
        images = sum(len(g) for g in census.near_duplicates)
        groups = f'{_count(census.near_duplicates, "group")} of near duplicates or look-alikes ({images} images)'
        files = ' ~ '.join((across or census.near_duplicates)[0][:_SHOWN])
        if across:
            findings.append(
                f'{groups}, {len(across)} of them in different split folders: {files}. Have a look, or make a new '
                'split with --split 0.6 0.2 0.2, which keeps each group on one side.'
            )
        else:
            findings.append(f'{groups}, each kept on one side of a new split: {files}.')
    return findings


def _facts(census: Census, description: FolderDescription | None) -> list[tuple[str, str]]:
    sizes = census.sizes_wh
    common = ', '.join(f'{w}x{h} ({n})' for (w, h), n in list(sizes.items())[:_SHOWN])
    if len(sizes) > _SHOWN:
        height, width = census.median_size_hw
        common = f'{len(sizes)} different ones; median {width}x{height}; most frequent {common}'
    defective = f'{census.images - census.clean} with defects, {census.clean} without'
    facts = [('images', f'{census.images}: {defective}; {census.with_mask} have a mask file'), ('sizes', common)]
    if description is not None:
        origin = {'folder': ', class by folder name', 'prefix': ', class by name prefix <type>__'}
        by = origin.get(description.types_from, '') if description.class_of_type else ''
        facts.append(('masks', f'{description.mask_encoding}: {description.reason}{by}'))
        if description.mask_palette:
            named = zip(description.classes, description.mask_palette, strict=True)
            facts.append(('colours', ', '.join(f'{name} {colour}' for name, colour in named)))
    if census.splits:
        facts.append(('folders', 'already split: ' + ', '.join(f'{k} {v}' for k, v in census.splits.items())))
    rare = f'{census.imbalance:.0f} normal pixels for one of the rarest class'
    return [*facts, ('imbalance', f'{census.normal_share:.3%} of the pixels are normal; {rare}')]


def _class_table(census: Census) -> Table:
    title = '\ndefects: 8-connected parts; where a column has three numbers: 10 % | median | 90 %'
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify='left', title_style='', title=title)
    table.add_column('class')
    for name in ('images', 'pixels', 'parts', f'<= {TINY_AREA} px', 'area, px', 'longest side, px', 'of image'):
        table.add_column(name, justify='right', no_wrap=True)
    for item in census.classes:
        counts = str(item.images), f'{item.share:.3%}', str(item.components), str(item.tiny)
        share = f'{100 * item.area_share[QUANTILES.index(50)]:.2g} %' if item.area_share else '-'
        table.add_row(escape(item.name), *counts, _spread(item.area_px), _spread(item.longest_side_px), share)
    return table


def _spread(quantiles: Sequence[float]) -> str:
    if not quantiles:
        return '-'
    values = [quantiles[QUANTILES.index(q)] for q in (10, 50, 90)]
    return ' | '.join(f'{v / 1000:.0f}k' if v >= 10000 else f'{v:.0f}' for v in values)


def _item(text: str) -> Table:
    row = Table.grid(padding=(0, 1))
    row.add_row(' -', escape(text))
    return row


def _some(names: Sequence[str]) -> str:
    return ', '.join(names[:_SHOWN]) + (', ...' if len(names) > _SHOWN else '')


def _count(items: Sequence, noun: str) -> str:
    return f'{len(items)} {noun}{"s" if len(items) != 1 else ""}'
