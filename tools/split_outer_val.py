"""Take an outer-validation split, on which a policy is learned, out of the training images.

Examples:
    python tools/split_outer_val.py data/wta512 --layout wta --share 0.25
    python tools/split_outer_val.py data/tiles --layout folder --from data/tiles/splits.json \\
        --groups data/tiles/near_duplicate_groups.json --share 0.3
"""

from __future__ import annotations

import argparse
import os
import sys

from mmdefect.command_line import add_dataset, one_line_errors
from mmdefect.extras import stop_without

stop_without('mm')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_dataset(parser)
    parser.add_argument('--share', type=float, default=0.25, help='share of the training images (default: 0.25)')
    parser.add_argument(
        '--from',
        dest='split_file',
        metavar='FILE',
        help='split file whose training split is divided (default: the folders of the layout)',
    )
    parser.add_argument('--seed', type=int, default=0, help='another seed draws other images (default: 0)')
    parser.add_argument('--groups', metavar='FILE', help='JSON list of lists of images that must stay on one side')
    parser.add_argument('--out', help='file to write (default: DATA_ROOT/outer_splits.json)')
    parser.add_argument('--overwrite', action='store_true', help='replace the file if it exists')
    return parser.parse_args()


@one_line_errors(ValueError, FileExistsError, PermissionError)
def main() -> int:
    args = parse_args()
    out = args.out or os.path.join(args.data_root, 'outer_splits.json')
    import mmdefect.registration  # noqa: F401
    from mmdefect.datasets.layouts import build_layout
    from mmdefect.datasets.splits import split_outer_val

    split = split_outer_val(
        build_layout(args.layout, args.data_root, **args.dataset_options),
        args.share,
        out,
        args.seed,
        args.split_file,
        args.groups,
        args.overwrite,
    )
    for name, counts in split.counts().items():
        print(f'{name}: {sum(counts.values())} images ({", ".join(f"{n} {t}" for t, n in counts.items())})')
    print(f'written: {out}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
