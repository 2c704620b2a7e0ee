"""``generate.py masks``."""

from __future__ import annotations

import argparse
from pathlib import Path

DESCRIPTION = """Draw masks that say where a defect shall be, and write them as a set.

Where they may lie: on a template (--template), on the object of each image (--foreground with --images), or anywhere
in the frame (--size). How large: --category with --types looks sizes up in the ranges for MVTec AD or in --ranges;
--width and --height give them.

    python tools/generate.py masks --out masks/bottle --category bottle --template ring.png --count 100
    python tools/generate.py masks --out masks/wta --category insert --types attached --width 0.02 0.1 \\
        --height 0.02 0.1 --images data/wta/img_dir/train --foreground --kind perlin --count 2
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--out', type=Path, required=True, help='folder of the set; must not hold one')
    parser.add_argument('--category', required=True, help='product; also the name in the ranges')
    parser.add_argument('--types', nargs='+', help='defect types (default: all types of the category in the ranges)')
    parser.add_argument('--ranges', type=Path, help='YAML of sizes instead of those for MVTec AD')
    parser.add_argument('--width', nargs=2, type=float, metavar=('LOW', 'HIGH'), help='fraction of the image')
    parser.add_argument('--height', nargs=2, type=float, metavar=('LOW', 'HIGH'), help='fraction of the image')
    parser.add_argument(
        '--rotate',
        action=argparse.BooleanOptionalAction,
        default=None,
        help='turn the masks at random (default: as the range says)',
    )
    parser.add_argument(
        '--kind', choices=['box', 'perlin', 'scratch', 'donor'], default='box', help='shape of the masks'
    )
    parser.add_argument('--library', type=Path, help='folder of a defect library, for --kind donor')
    parser.add_argument('--class-id', type=int, help='class of the donors (default: all)')
    parser.add_argument('--support', type=Path, help='support set whose defects are the donors, each type its own')
    parser.add_argument('--template', type=Path, help='mask of the allowed region, for all images')
    parser.add_argument('--images', type=Path, help='folder of images that --foreground looks at')
    parser.add_argument('--labels', type=Path, help='folder of their labels: images with a defect are left out')
    parser.add_argument('--foreground', action='store_true', help='allow the object that is found in each image')
    parser.add_argument('--size', nargs=2, type=int, metavar=('H', 'W'), help='allow all of a frame of this size')
    parser.add_argument('--count', type=int, default=100, help='masks for each type (and image); default 100')
    parser.add_argument('--min-overlap', type=float, default=0.75, help='share of a box on the region; default 0.75')
    parser.add_argument(
        '--clip',
        action=argparse.BooleanOptionalAction,
        default=None,
        help='cut off what lies beyond the region (default: of shapes, not of boxes)',
    )
    parser.add_argument('--attempts', type=int, default=1000, help='boxes tried for one mask; default 1000')
    parser.add_argument('--seed', type=int, default=0)


def run(args: argparse.Namespace) -> None:
    from mmdefect.diffusion.mask_sets import write_list, write_masks
    from mmdefect.diffusion.progress import track

    if (args.out / 'masks.json').exists():
        raise ValueError(f'{args.out} must not hold a set of masks yet, but it has masks.json; name another folder.')
    if args.count < 1:
        raise ValueError(f'`--count` must be at least 1, got {args.count}.')
    rules = make_rules(args)
    entries, regions = [], make_regions(args)
    for region in track(regions, 'masks', len(regions)):
        for kind, rule in rules.items():
            entries += write_masks(args.out, args.category, kind, rule, [region], args.count, args.seed)
    write_list(args.out, entries)
    print(f'written: {len(entries)} masks in {args.out}')


def make_rules(args: argparse.Namespace) -> dict:
    from mmdefect.diffusion.mask_sets import MaskRule
    from mmdefect.synthesis.donors import DefectLibrary

    sizes, class_ids = find_sizes(args), {}
    if args.kind == 'donor' and (args.library is None) == (args.support is None):
        raise ValueError('`--kind donor` must have donors: either --library or --support.')
    library = DefectLibrary(args.library) if args.library else None
    if args.support:
        from mmdefect.diffusion.support import donor_library, read_support

        support = read_support(args.support)
        missing = sorted(set(sizes) - set(support.types))
        if missing:
            raise ValueError(f'`--types` must be types of the support set, {support.types}, got {missing[0]!r}.')
        library = donor_library(support, args.out / 'donors')
        class_ids = {name: 1 + support.types.index(name) for name in sizes}
    return {
        name: MaskRule(
            size, args.kind, args.min_overlap, args.attempts, library, class_ids.get(name, args.class_id), args.clip
        )
        for name, size in sizes.items()
    }


def find_sizes(args: argparse.Namespace) -> dict:
    from dataclasses import replace

    from mmdefect.diffusion.ranges import MVTEC_RANGES, BoxRange, find_range, read_ranges

    if (args.width is None) != (args.height is None):
        raise ValueError('`--width` and `--height` must be given together.')
    if args.width is not None:
        return {
            name: BoxRange(tuple(args.width), tuple(args.height), bool(args.rotate), f'{args.category}/{name}')
            for name in args.types or ['defect']
        }
    ranges = read_ranges(args.ranges or MVTEC_RANGES)
    names = args.types or sorted(ranges.get(args.category, {})) or ['']
    found = {name: find_range(ranges, args.category, name) for name in names}
    return found if args.rotate is None else {n: replace(r, rotate=args.rotate) for n, r in found.items()}


def make_regions(args: argparse.Namespace) -> list:
    from mmdefect.diffusion.images import list_clean, read_mask
    from mmdefect.diffusion.mask_sets import full_frame

    chosen = [bool(args.template), args.foreground, args.size is not None]
    if sum(chosen) != 1:
        raise ValueError(
            f'one of --template, --foreground and --size must say where masks may lie, got {sum(chosen)} of them.'
        )
    if args.template:
        return [(None, read_mask(args.template))]
    if args.size is not None:
        return [(None, full_frame(tuple(args.size)))]
    if args.images is None:
        raise ValueError('`--foreground` must have images to look at; name their folder with --images.')
    return _Foregrounds(list_clean(args.images, args.labels))


class _Foregrounds:
    """The regions of images, found one at a time."""

    def __init__(self, paths: list[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self):
        from mmdefect.diffusion.images import read_image
        from mmdefect.synthesis.foreground import find_foreground

        for path in self.paths:
            yield str(path), find_foreground(read_image(path)) > 0
