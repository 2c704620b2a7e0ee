"""``generate.py relabel``."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path

DESCRIPTION = """Give edited or generated images labels of their own, from what changed against their sources.

Writes labels/NAME.png, relabel.json (what became of each defect and why an edit was rejected), sheets/*.jpg to look at and
review.csv, whose column `decision` is for accept or reject. Copying the labels of the sources is not done here.

    python tools/generate.py relabel --edits data/edits/img_dir --prefix new_ --sources data/wta/img_dir/train \\
        --labels data/wta/ann_dir/train --classes normal attached broken --out work_dirs/relabelled
    python tools/generate.py relabel --edits generated/wta --learn-images data/wta/img_dir/train \\
        --learn-labels data/wta/ann_dir/train --classes normal attached broken --out work_dirs/relabelled
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from mmdefect.diffusion.relabel import RelabelSettings
    from mmdefect.diffusion.relabel_checks import Limits

    add_pair_arguments(parser)
    parser.add_argument('--out', type=Path, required=True, help='folder of the result')
    parser.add_argument(
        '--probabilities',
        type=Path,
        help='folder of NAME.npy, (classes, H, W) of a trained segmenter; it then votes on the class',
    )
    parser.add_argument('--learn-images', type=Path, help='images that show how defects look (default: --sources)')
    parser.add_argument('--learn-labels', type=Path, help='their label maps (default: --labels)')
    parser.add_argument(
        '--noise',
        choices=['set', 'pair'],
        default='set',
        help='estimate the noise of the reconstruction at each place over all edits (default; they share the '
        'pose), or from each pair alone',
    )
    parser.add_argument('--sheet-rows', type=int, default=6, help='edits on a sheet; default 6')
    for group, settings in (('thresholds', RelabelSettings), ('what rejects an edit', Limits)):
        section = parser.add_argument_group(f'{group}, see docs/relabel.md')
        for field in fields(settings):
            name = '--' + field.name.replace('_', '-')
            if isinstance(field.default, bool):
                section.add_argument(name, action='store_true')
            else:
                section.add_argument(
                    name, type=type(field.default), default=field.default, help=f'default {field.default}'
                )


def add_pair_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what names edits and their sources."""
    parser.add_argument('--edits', type=Path, required=True, help='generated set (manifest.jsonl), or folder of images')
    parser.add_argument('--sources', type=Path, help='folder of the sources, for a folder of images')
    parser.add_argument('--labels', type=Path, help='folder of the label maps of the sources')
    parser.add_argument('--prefix', default='', help='what the name of an edit has in front of that of its source')
    parser.add_argument('--classes', nargs='+', required=True, help='names of the classes, the normal one first')


def run(args: argparse.Namespace) -> None:
    from mmdefect.diffusion.progress import track
    from mmdefect.diffusion.relabel import RelabelSettings
    from mmdefect.diffusion.relabel_checks import Limits
    from mmdefect.diffusion.relabel_pairs import find_pairs
    from mmdefect.diffusion.relabel_run import estimate_noise, learn_from_folders, relabel_pairs, summarise
    from mmdefect.diffusion.review import SheetWriter, write_table

    settings, limits = _settings(RelabelSettings, args), _settings(Limits, args)
    pairs = find_pairs(args.edits, args.sources, args.labels, args.prefix, args.probabilities)
    images, labels = args.learn_images or args.sources, args.learn_labels or args.labels
    if images is None or labels is None:
        raise ValueError('labelled images must show how defects look; give --learn-images and --learn-labels.')
    appearance = learn_from_folders(images, labels, len(args.classes))
    noise = estimate_noise(pairs, len(args.classes), settings.reach, track) if args.noise == 'set' else None
    if args.noise == 'set' and noise is None:
        print('too few edits, or edits of several sizes: the noise is estimated from each pair alone.')
    sheets = SheetWriter(args.out / 'sheets', args.classes, args.sheet_rows)
    pixels: dict[str, int] = {}

    def finished(one) -> None:
        sheets.add(one)
        pixels[one.pair.name] = int(((one.label > 0) & (one.label != 255)).sum())

    content = relabel_pairs(pairs, appearance, args.classes, args.out, noise, settings, limits, finished, track)
    sheets.flush()
    write_table(args.out / 'review.csv', content['entries'], sheets.sheet_of, pixels)
    print(summarise(content))
    print(f'written: {args.out}/labels, relabel.json, review.csv and {sheets.count} sheets')


def _settings(kind: type, args: argparse.Namespace):
    return kind(**{field.name: getattr(args, field.name) for field in fields(kind)})
