"""Print a census for people: tables of at most 100 columns and one line per finding."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mmdefect.datasets.census import QUANTILES, TINY_AREA, Census
from mmdefect.datasets.folder_labels import FolderDescription

WIDTH = 96
_SHOWN = 3


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
    suggestion = census.suggestion
    console.print('[bold]suggested')
    height, width = suggestion.crop_size_hw
    console.print(_item(f'crop {width}x{height} (width x height): {suggestion.crop_reason}'))
    weights = ', '.join(f'{name} {w:g}' for name, w in _weights(census))
    console.print(_item(f'class weights {weights}: {suggestion.class_weight_reason}'))
    console.print(_item(f'focal alpha {_numbers(suggestion.focal_alpha)}: the same weights, scaled to the sum 1.'))


def list_findings(census: Census) -> list[str]:
    """Say in sentences what the owner of the data should look at."""
    findings = []
    if census.unmasked_images:
        findings.append(
            f'{_count(census.unmasked_images, "image")} outside good/ without a mask, left out: '
            f'{_some(census.unmasked_images)}. If they are free of defects, run again with --unmasked '
            'clean.'
        )
    if census.orphan_masks:
        findings.append(
            f'{_count(census.orphan_masks, "mask")} without an image, left out: {_some(census.orphan_masks)}.'
        )
    empty = [c.name for c in census.classes if not c.pixels]
    if empty:
        findings.append(f'no pixel of {", ".join(empty)}: a class that is never drawn cannot be learned.')
    few = [f'{c.name} ({c.images})' for c in census.classes if 0 < c.images < 10]
    if few:
        findings.append(f'fewer than 10 images of {", ".join(few)}: numbers for it will be uncertain.')
    if census.odd_masks:
        file, values = next(iter(census.odd_masks.items()))
        shown = ', '.join(f'{v} ({n} px)' for v, n in list(values.items())[:_SHOWN])
        findings.append(
            f'{_count(census.odd_masks, "mask")} with values besides black and white, which count as '
            f'defect: {file}: {shown}{", ..." if len(values) > _SHOWN else ""}.'
        )
    if census.ignored_share:
        findings.append(f'{census.ignored_share:.3%} of the pixels are 255 (ignore): neither trained nor tested.')
    if census.exact_duplicates:
        across = next((g for g in census.exact_duplicates if g in census.groups_across_splits), None)
        findings.append(
            f'{_count(census.exact_duplicates, "group")} of files with the same content'
            f'{", some in different split folders" if across else ""}: '
            f'{" = ".join((across or census.exact_duplicates[0])[:_SHOWN])}.'
        )
    if census.near_duplicates:
        findings.append(_describe_look_alikes(census))
    return findings


def _describe_look_alikes(census: Census) -> str:
    images = sum(len(g) for g in census.near_duplicates)
    groups = f'{_count(census.near_duplicates, "group")} of near duplicates or look-alikes ({images} images)'
    across = census.groups_across_splits
    if across:
        return (
            f'{groups}, {len(across)} of them in different split folders: {" ~ ".join(across[0][:_SHOWN])}. Have '
            'a look, or make a new split with --split 0.6 0.2 0.2, which keeps each group on one side.'
        )
    return f'{groups}, each kept on one side of a new split: {" ~ ".join(census.near_duplicates[0][:_SHOWN])}.'


def _facts(census: Census, description: FolderDescription | None) -> list[tuple[str, str]]:
    sizes = census.sizes_wh
    common = ', '.join(f'{w}x{h} ({n})' for (w, h), n in list(sizes.items())[:_SHOWN])
    height, width = census.median_size_hw
    if len(sizes) > _SHOWN:
        common = f'{len(sizes)} different ones; median {width}x{height}; most frequent {common}'
    facts = [
        (
            'images',
            f'{census.images}: {census.images - census.clean} with defects, {census.clean} without; '
            f'{census.with_mask} have a mask file',
        ),
        ('sizes', common),
    ]
    if description is not None:
        origin = {'folder': ', class by folder name', 'prefix': ', class by name prefix <type>__'}
        by = origin.get(description.types_from, '') if description.class_of_type else ''
        facts.append(('masks', f'{description.mask_encoding}: {description.reason}{by}'))
        if description.mask_palette:
            colours = ', '.join(
                f'{name} {colour}' for name, colour in zip(description.classes, description.mask_palette, strict=True)
            )
            facts.append(('colours', colours))
    if census.splits:
        facts.append(('folders', 'already split: ' + ', '.join(f'{k} {v}' for k, v in census.splits.items())))
    facts.append(
        (
            'imbalance',
            f'{census.normal_share:.3%} of the pixels are normal; {census.imbalance:.0f} normal '
            'pixels for one of the rarest class',
        )
    )
    return facts


def _class_table(census: Census) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        title_justify='left',
        title_style='',
        title='\ndefects: 8-connected parts; where a column has three numbers: 10 % | median | 90 %',
    )
    table.add_column('class')
    for name in ('images', 'pixels', 'parts', f'<= {TINY_AREA} px', 'area, px', 'longest side, px', 'of image'):
        table.add_column(name, justify='right', no_wrap=True)
    for item in census.classes:
        share = f'{100 * item.area_share[QUANTILES.index(50)]:.2g} %' if item.area_share else '-'
        table.add_row(
            escape(item.name),
            str(item.images),
            f'{item.share:.3%}',
            str(item.components),
            str(item.tiny),
            _spread(item.area_px),
            _spread(item.longest_side_px),
            share,
        )
    return table


def _spread(quantiles: Sequence[float]) -> str:
    if not quantiles:
        return '-'
    values = [quantiles[QUANTILES.index(q)] for q in (10, 50, 90)]
    return ' | '.join(f'{v / 1000:.0f}k' if v >= 10000 else f'{v:.0f}' for v in values)


def _weights(census: Census) -> list[tuple[str, float]]:
    return list(zip(('normal', *(c.name for c in census.classes)), census.suggestion.class_weight, strict=True))


def _item(text: str) -> Table:
    row = Table.grid(padding=(0, 1))
    row.add_row(' -', escape(text))
    return row


def _numbers(values: Sequence[float]) -> str:
    return '[' + ', '.join(f'{v:g}' for v in values) + ']'


def _some(names: Sequence[str]) -> str:
    return ', '.join(names[:_SHOWN]) + (', ...' if len(names) > _SHOWN else '')


def _count(items: Sequence, noun: str) -> str:
    return f'{len(items)} {noun}{"s" if len(items) != 1 else ""}'
