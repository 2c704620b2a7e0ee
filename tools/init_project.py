"""Look at a folder of images and masks, divide it, and write configs that can be trained at once.

Images and masks are paired by name: images/ + masks/, img_dir/ + ann_dir/, or part.jpg + part_mask.png side by side;
masks may be 0/255, class ids or colours; images in good/, ok/ or clean/ need no mask.
"""

from __future__ import annotations

import argparse
import sys

from mmdefect.command_line import one_line_errors


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data_dir', metavar='DATA_DIR', help='folder with your images and masks')
    parser.add_argument('--name', required=True, help='name of the project: letters, digits, - and _')
    parser.add_argument('--out', default='configs', help='the project goes to the folder OUT/NAME (default: configs)')
    parser.add_argument('--seed', type=int, default=0, help='seed of the division (default: 0)')
    parser.add_argument(
        '--split',
        nargs=3,
        type=float,
        metavar=('TRAIN', 'VAL', 'TEST'),
        help='shares, sum 1 (default: the train/val/test folders if there are, else .6 .2 .2)',
    )
    parser.add_argument(
        '--classes',
        nargs='+',
        metavar='NAME',
        help='names of the defect classes; one name makes all 0/255 masks one class',
    )
    parser.add_argument('--encoding', choices=['binary', 'index', 'palette'], help='how masks are to be read')
    parser.add_argument(
        '--types',
        choices=['auto', 'folder', 'prefix', 'none'],
        help='where the defect type is written: folder name, <type>__<stem>, or nowhere',
    )
    parser.add_argument('--unmasked', choices=['skip', 'clean'], help='what an image without a mask is (default: skip)')
    parser.add_argument(
        '--division', help='of VisA as downloaded, kept as given: 1cls, 2cls_fewshot, 2cls_highshot or a CSV file'
    )
    parser.add_argument(
        '--groups', metavar='JSON', help='groups of images that stay on one side, in place of the look-alikes found'
    )
    parser.add_argument('--ignore-look-alikes', action='store_true', help='divide without regard to near duplicates')
    parser.add_argument('--overwrite', action='store_true', help='replace an earlier project of this name')
    return parser.parse_args()


@one_line_errors(ValueError, OSError)
def main() -> int:
    args = parse_args()
    from mmdefect.extras import stop_without

    stop_without('mm')
    from mmdefect.datasets.census import make_console
    from mmdefect.datasets.project import init_project
    from mmdefect.progress import track

    init_project(
        args.data_dir,
        args.name,
        args.out,
        args.seed,
        args.split,
        args.encoding,
        args.classes,
        args.types,
        args.unmasked,
        args.groups,
        not args.ignore_look_alikes,
        args.overwrite,
        make_console(),
        *[track] * sys.stderr.isatty(),
        division=args.division,
    )
    return 0


if __name__ == '__main__':
    sys.exit(main())
