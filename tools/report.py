#!/usr/bin/env python3
"""Write the report of a run, of a project or of any folder of runs: one HTML page that needs no network.

    python tools/report.py work_dirs/blades --data-root data/wta512

Beside the page go a Markdown version and the figures as PNG and SVG, if asked. Images and labels come from the config
that a run has kept, or from --images and --labels (folders paired by file name); --data-root takes the place of the
data root of the config, or names a folder with img_dir/test and ann_dir/test.
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

from mmdefect.experiments.evidence.report import write_report
from mmdefect.experiments.evidence.run_folder import SearchPlaces


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('work_dir', type=Path, help='folder of a run or of several')
    parser.add_argument('--out', type=Path, help='page to write (default: WORK_DIR/report.html)')
    parser.add_argument('--title', help='headline (default: name of the folder)')
    parser.add_argument('--data-root', type=Path, help='folder of the data set')
    parser.add_argument('--images', type=Path, help='folder of the test images')
    parser.add_argument('--labels', type=Path, help='folder of their label maps')
    parser.add_argument('--classes', nargs='+', help='names of the classes, the background first')
    parser.add_argument(
        '--gallery', type=int, help='images of each kind in the gallery of a run (default: 8, 5 for several)'
    )
    parser.add_argument('--markdown', action='store_true', help='also write a .md file, and figures/ as PNG and SVG')
    args = parser.parse_args(argv)
    if bool(args.images) != bool(args.labels):
        parser.error('--images and --labels go together')
    return args


@one_line_errors(OSError, ValueError)
def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)

    def from_config(config: Path):
        from mmdefect.apis.study import load_truth_of_config

        return load_truth_of_config(config, args.data_root)

    places = SearchPlaces(args.data_root, args.images, args.labels, tuple(args.classes or ()), from_config)
    paths = write_report(
        args.work_dir, args.out or args.work_dir / 'report.html', places, args.title, args.gallery, args.markdown
    )
    print('\n'.join(map(str, paths)))
    return 0


if __name__ == '__main__':
    sys.exit(main())
