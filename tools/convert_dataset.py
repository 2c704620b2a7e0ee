"""Convert labelled images into a layout that mmdefect reads.

Examples:
    python tools/convert_dataset.py ksdd2 data/KolektorSDD2 data/ksdd2
    python tools/convert_dataset.py magnetic-tile data/Magnetic-tile-defect-datasets. data/tiles --link hard
    python tools/convert_dataset.py coco data/annotations/instances_train.json data/parts --images data/images
    python tools/convert_dataset.py folder data/photos data/parts --layout mvtec

Afterwards: python tools/init_project.py OUT --name mypart
"""

from __future__ import annotations

import argparse
import sys

from mmdefect.command_line import one_line_errors

FORMATS = ('folder', 'ksdd2', 'magnetic-tile', 'coco')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('format', choices=FORMATS, help='what SOURCE is')
    parser.add_argument('source', metavar='SOURCE', help='folder to read; for coco also a JSON file')
    parser.add_argument('out', metavar='OUT', help='folder to make')
    parser.add_argument(
        '--layout',
        choices=['index', 'mvtec'],
        default='index',
        help='index: img_dir/ann_dir with class ids (default); mvtec: folders as in MVTec AD',
    )
    parser.add_argument('--link', choices=['copy', 'hard'], default='copy', help='copy images, or hard-link them')
    parser.add_argument('--classes', nargs='+', metavar='NAME', help='names of the defect classes')
    parser.add_argument('--overwrite', action='store_true', help='replace an earlier conversion in OUT')
    folder = parser.add_argument_group('folder')
    folder.add_argument('--encoding', choices=['binary', 'index', 'palette'], help='how masks are to be read')
    folder.add_argument(
        '--types', choices=['auto', 'folder', 'prefix', 'none'], default='auto', help='where the defect type is written'
    )
    folder.add_argument('--unmasked', choices=['skip', 'clean'], default='skip', help='what an image without a mask is')
    coco = parser.add_argument_group('coco')
    coco.add_argument('--images', metavar='DIR', help='folder of the images (default: looked for around the JSON file)')
    coco.add_argument(
        '--polygon-rule',
        choices=['union', 'evenodd'],
        default='union',
        help='several polygons of one annotation: all filled (default), or inner ones are holes',
    )
    return parser.parse_args()


def read_source(args: argparse.Namespace):
    from mmdefect.datasets import coco, convert

    if args.format == 'coco':
        return coco.read_coco(args.source, args.images, args.classes, args.polygon_rule)
    if args.format == 'ksdd2':
        return convert.read_ksdd2(args.source, args.classes)
    if args.format == 'magnetic-tile':
        return convert.read_magnetic_tile(args.source, args.classes)
    return convert.read_folder(args.source, args.encoding, args.classes, args.types, args.unmasked)


def print_report(report, classes: tuple[str, ...]) -> None:
    print(f'classes: {", ".join(f"{i} {name}" for i, name in enumerate(classes))}')
    for split, types in sorted(report.images.items()):
        print(f'{split}: {sum(types.values())} images: {", ".join(f"{n} {t}" for t, n in sorted(types.items()))}')
    for what, count in sorted(report.decisions.items()):
        print(f'note: {count} {what}.')
    for note in report.notes:
        print(f'note: {note}')
    print(f'written: {report.folder}')
    print(f'next: python tools/init_project.py {report.folder} --name mypart')


@one_line_errors(ValueError, OSError)
def main() -> int:
    args = parse_args()
    from mmdefect.extras import stop_without

    stop_without('mm')
    from mmdefect.datasets.convert import convert
    from mmdefect.progress import track

    source = read_source(args)
    origin, shown = f'{args.format} {args.source}', [track] * sys.stderr.isatty()
    report = convert(source, args.out, args.layout, args.link, args.overwrite, origin, *shown)
    print_report(report, source.classes)
    return 0


if __name__ == '__main__':
    sys.exit(main())
