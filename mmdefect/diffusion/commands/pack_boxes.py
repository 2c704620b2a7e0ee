"""``generate.py pack-boxes``."""

from __future__ import annotations

import argparse
from pathlib import Path

DESCRIPTION = """Write a sampled set as a data set whose labels are its masks, for training with WeakBoxLoss.

    python tools/generate.py pack-boxes generated/few-shot --classes normal attached broken --out data/generated/boxes
    python tools/train.py configs/fast_scnn/fast-scnn_boxes_2k_wta-256.py
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('generated', type=Path, help='set that sample wrote')
    parser.add_argument('--classes', nargs='+', required=True, help='of the real data, the normal class first')
    parser.add_argument(
        '--class-ids',
        nargs='+',
        default=[],
        metavar='TYPE=ID',
        help='class of each defect type (default: of the manifest, or of that name)',
    )
    parser.add_argument('--out', type=Path, required=True, help='folder of the data set; must not exist')


def run(args: argparse.Namespace) -> None:
    from mmdefect.diffusion.box_labels import pack_boxes
    from mmdefect.diffusion.commands.sample import read_class_ids
    from mmdefect.diffusion.progress import track

    packed = pack_boxes(args.generated, args.classes, args.out, track, read_class_ids(args.class_ids))
    print(f'written: {len(packed.images)} images in {args.out}, labels are their masks')
