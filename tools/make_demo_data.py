"""Render the demo data set: inspection images with exact labels, no download needed."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmdefect.extras import stop_without

stop_without('train', 'PIL', 'rich', 'scipy')

import cv2
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mmdefect.demo.sample import demo_overview
from mmdefect.demo.write import LAYOUTS, write_demo_dataset


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('out', type=Path, help='root folder; mvtec/ and wta/ are made in it')
    parser.add_argument('--layout', choices=('both', *LAYOUTS), default='both')
    parser.add_argument('--images', type=int, default=200, help='images in each layout (default: 200)')
    parser.add_argument(
        '--size',
        type=int,
        nargs='+',
        default=[256],
        metavar='PIXELS',
        help='side, or height and width, 128 to 1024 (default: 256)',
    )
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--overwrite', action='store_true', help='replace an older demo data set in the same folder')
    parser.add_argument('--overview', type=Path, help='also write a sheet of all categories and defects to this file')
    args = parser.parse_args()
    if len(args.size) > 2:
        parser.error('--size takes one number (side) or two (height and width)')
    return args


def main() -> int:
    args = parse_args()
    console = Console(stderr=True)
    layouts = LAYOUTS if args.layout == 'both' else (args.layout,)
    columns = (
        TextColumn('[progress.description]{task.description}'),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    cv2.setNumThreads(1)  # images are small: more threads only wait for each other
    bar = Progress(*columns, console=console)
    task = bar.add_task('Rendering')

    def show(done: int, total: int) -> None:
        bar.start()  # not before the arguments have been accepted
        bar.update(task, completed=done, total=total)

    try:
        info = write_demo_dataset(
            args.out, layouts, args.images, (args.size[0], args.size[-1]), args.seed, args.overwrite, progress=show
        )
    except (ValueError, OSError) as err:
        console.print(f'[red]error:[/red] {err}', highlight=False, soft_wrap=True)
        return 1
    finally:
        bar.stop()
    if args.overview:
        args.overview.parent.mkdir(parents=True, exist_ok=True)
        sheet = demo_overview(seed=args.seed)
        if not cv2.imwrite(str(args.overview), sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80]):
            console.print(f'[red]error:[/red] cannot write {args.overview}', soft_wrap=True)
            return 1
    for layout in layouts:
        print(f'{args.out / layout}: {info["images_per_layout"]} images')
    return 0


if __name__ == '__main__':
    sys.exit(main())
