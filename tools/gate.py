#!/usr/bin/env python3
"""Let a new model take the place of an old one only if no class is worse outside the noise, part by part.

    python tools/gate.py work_dirs/blades/exp/blades/old work_dirs/blades/exp/blades/new

Both must be tested on the same parts. The exit code is for CI.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from mmdefect.command_line import one_line_errors
from mmdefect.extras import stop_without

stop_without('train', 'scipy')

from mmdefect.experiments.acceptance import gate


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='Exit codes: 0 promote the new one, 1 keep the old one, 2 a mistake in the call.',
    )
    for name in ('old', 'new'):
        parser.add_argument(name, type=Path, help='folder of a tested run, with parts.csv in it or in its test/')
    return parser.parse_args()


@one_line_errors(ValueError, OSError)
def main() -> int:
    args = parse_args()
    result = gate(args.old, args.new)
    print(result.report())
    return 0 if result.promoted else 1


if __name__ == '__main__':
    sys.exit(main())
