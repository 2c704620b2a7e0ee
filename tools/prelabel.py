"""Write predictions as annotations for labelme, CVAT, COCO tools or Label Studio, so that a person corrects them.

python tools/prelabel.py model.onnx new_images --out new_labels --format labelme
"""

from __future__ import annotations

import argparse
import sys

from mmdefect.command_line import one_line_errors

FORMATS = ('labelme', 'cvat', 'coco', 'labelstudio')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('model', help='exported .onnx file (runs without PyTorch) or checkpoint')
    parser.add_argument('inputs', nargs='+', help='images, folders, patterns; - reads a list from standard input')
    parser.add_argument('--out', required=True, help='folder of the annotations')
    parser.add_argument('--format', dest='form', choices=FORMATS, required=True, help='of the annotations')
    parser.add_argument('--threshold', dest='thresholds', nargs='+', metavar='[CLASS=]VALUE', help='as for predicting')
    parser.add_argument(
        '--min-area', dest='min_area_px', type=int, default=0, metavar='PIXELS', help='leave smaller regions out'
    )
    parser.add_argument(
        '--simplify',
        dest='simplify_px',
        type=float,
        default=0.8,
        metavar='PIXELS',
        help='an outline may leave the pixels by so much; 0 keeps all of them (default: 0.8)',
    )
    parser.add_argument('--overwrite', action='store_true', help='replace annotations that are there, corrected or not')
    parser.add_argument(
        '--image-prefix',
        default='/data/local-files/?d=',
        help='of Label Studio, before the path of an image (default: its local files)',
    )
    parser.add_argument('--config', help='leaf config, for a checkpoint that does not hold its own')
    parser.add_argument('--device', help='of PyTorch, for a checkpoint (default: cpu)')
    return parser.parse_args()


@one_line_errors(ValueError, OSError, ImportError)
def main() -> int:
    args = vars(parse_args())
    from mmdefect.deployment.prelabel import prelabel

    options = {name: args.pop(name) for name in ('config', 'device')}
    given = {name: value for name, value in options.items() if value is not None}
    images, failed = prelabel(options=given, lines=sys.stdin, **args)
    for message in failed:
        print(f'error: {message}', file=sys.stderr)
    shapes = sum(len(image.shapes) for image in images)
    print(f'{args["out"]}: {shapes} regions in {len(images)} images, {len(failed)} unreadable')
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
