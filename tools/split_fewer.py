"""Write divisions with fewer defective training images, one inside the other, for learning curves.

Clean training images and the other splits stay as they are.

Examples:
    python tools/split_fewer.py data/tiles/splits.json --shots 1 3 5 10 --groups data/tiles/near_duplicate_groups.json
"""

from __future__ import annotations

import argparse
import os
import sys

from mmdefect.command_line import one_line_errors
from mmdefect.extras import stop_without

stop_without('mm')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('split_file', help='division to start from (tools/split_dataset.py)')
    parser.add_argument('--shots', type=int, nargs='+', required=True, help='defective images of each type')
    parser.add_argument('--seed', type=int, default=0, help='another seed draws other images (default: 0)')
    parser.add_argument('--groups', metavar='FILE', help='JSON list of lists of images that show one part')
    parser.add_argument(
        '--out',
        help='files to write, {shots} and {seed} filled in (default: shots_{shots}_{seed}.json beside the split file)',
    )
    parser.add_argument(
        '--spare-to',
        metavar='SPLIT',
        help='split that gets the defective images not kept, such as val, to choose settings on (default: none)',
    )
    parser.add_argument('--overwrite', action='store_true', help='replace files that exist')
    return parser.parse_args()


@one_line_errors(ValueError, FileExistsError, PermissionError)
def main() -> int:
    args = parse_args()
    out = args.out or os.path.join(os.path.dirname(args.split_file), 'shots_{shots}_{seed}.json')
    out = out.replace('{seed}', str(args.seed))
    from mmdefect.datasets.splits import split_fewer

    made = split_fewer(args.split_file, args.shots, out, args.seed, args.groups, args.overwrite, args.spare_to)
    for number, split in made.items():
        counts = split.counts()['train']
        print(f'{out.replace("{shots}", str(number))}: {", ".join(f"{n} {t}" for t, n in counts.items())} in train')
    return 0


if __name__ == '__main__':
    sys.exit(main())
