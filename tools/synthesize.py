"""Write the synthetic images of a config to disk, with labels and records of the defects; or build its library only.

    python tools/synthesize.py CONFIG --out data/synthetic --count 1000 --workers 2
    python tools/synthesize.py CONFIG --out data/synthetic --count 100000 --engine ray --workers 64
    python tools/synthesize.py CONFIG --library-only --workers 8      # before a training that starts on many processes

Image n depends on config, seed and n only, whoever makes it. The same command goes on; a larger --count adds images.
"""

from __future__ import annotations

import argparse
import sys
import time

from mmdefect.command_line import add_config_options, one_line_errors
from mmdefect.extras import stop_without

stop_without('mm')


from mmdefect.experiments.bulk import add_worker_options, workers_of


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='leaf config with a synthesis recipe')
    parser.add_argument('--out', help='folder of the data set: img_dir, ann_dir, instances')
    parser.add_argument('--count', type=int, default=100, help='images (default: 100)')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--split', default='train', help='folder below img_dir (default: train)')
    parser.add_argument('--library-only', action='store_true', help='build the library of defects and stop')
    add_config_options(parser)
    add_worker_options(parser)
    args = parser.parse_args()
    if not args.library_only and not args.out:
        parser.error('--out must be given, or --library-only')
    return args


@one_line_errors(ValueError, OSError, ImportError)
def main() -> int:
    args = parse_args()
    from mmdefect.apis.synthesize import build_libraries, synthesize

    begun = time.monotonic()
    options = dict(cfg_options=args.cfg_options, recipes=args.recipes, workers=workers_of(args))
    try:
        if args.library_only:
            for library in build_libraries(args.config, **options):
                print(f'{library.folder}: {len(library)} defects, {time.monotonic() - begun:.1f} s')
            return 0
        result = synthesize(args.config, args.out, args.count, args.seed, split=args.split, **options)
    except KeyboardInterrupt:
        print('stopped; the same command goes on', file=sys.stderr)
        return 130
    defects = ', '.join(f'{number} {name}' for name, number in sorted(result['defects'].items()))
    print(
        f'{args.out}: {result["images"]} images ({result["made"]} made now), {defects}, '
        f'{time.monotonic() - begun:.1f} s'
    )
    return 0


if __name__ == '__main__':
    sys.exit(main())
