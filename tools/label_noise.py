#!/usr/bin/env python3
"""Compare two annotations of the same images, or labels with predictions, and list the images worth a second look.

    python tools/label_noise.py ANNOTATOR_A ANNOTATOR_B --images IMAGES --out review
    python tools/label_noise.py data/wta512/ann_dir/train FOLD0/pred FOLD1/pred FOLD2/pred --out review

Predictions must come from models that did not train on the image (cross-validation: one folder a fold), otherwise they
repeat the label's mistakes. Writes review.csv, and review.png with the worst images.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mmdefect.command_line import one_line_errors
from mmdefect.extras import stop_without

stop_without('train', 'jinja2', 'matplotlib', 'PIL', 'scipy')

import cv2

from mmdefect.experiments.evidence.label_review import compare_folders, find_pairs, review_page, summary, to_csv
from mmdefect.files import write_text


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('first', type=Path, help='folder of label maps')
    parser.add_argument(
        'second', type=Path, nargs='+', help="folder of the other label maps, or of each fold's predictions"
    )
    parser.add_argument('--images', type=Path, help='folder of the images, for the page of the worst')
    parser.add_argument('--tolerance', type=float, default=3.0, help='pixels (default: 3)')
    parser.add_argument('--binary', action='store_true', help='masks of 0 and 255 instead of class ids')
    parser.add_argument('--count', type=int, default=12, help='images on the page, 0 for no page (default: 12)')
    parser.add_argument('--out', type=Path, default=Path('label_review'), help='files to write, without suffix')
    return parser.parse_args(argv)


@one_line_errors(OSError, ValueError)
def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    unpaired = find_pairs(args.first, args.second)[1]
    results = compare_folders(args.first, args.second, args.tolerance, args.binary)
    table = args.out.with_name(args.out.name + '.csv')
    write_text(table, to_csv(results))
    print(summary(results, args.tolerance))
    if unpaired:
        print(f'{len(unpaired)} label maps have no counterpart, the first is {unpaired[0]}')
    print(table)
    first = results[0].agreement
    if args.count and (first.unconfirmed or first.both != first.same_class):
        page = args.out.with_name(args.out.name + '.png')
        image = review_page(results, args.images, args.binary, args.count)
        if not cv2.imwrite(str(page), image[..., ::-1]):
            raise OSError(f'{page} must be an image that can be written; choose another --out.')
        print(page)
    return 0


if __name__ == '__main__':
    sys.exit(main())
