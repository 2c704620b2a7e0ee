#!/usr/bin/env python3
"""Show the jobs of a project while they run: state, iteration, last and best validation, time spent and left.

python tools/status.py work_dirs/studies            # once
python tools/status.py work_dirs/studies --watch 5  # again every 5 seconds, until Ctrl-C
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mmdefect.extras import stop_without

stop_without('train', 'rich')

from rich.console import Console
from rich.live import Live
from rich.table import Table

from mmdefect.experiments.status import JobStatus, read_status, time_left

STYLES = {'done': 'green', 'running': 'cyan', 'failed': 'red', 'lost': 'yellow', 'pending': 'dim'}


def make_table(rows: list[JobStatus], title: str) -> Table:
    counts = ', '.join(f'{sum(r.status == s for r in rows)} {s}' for s in STYLES if any(r.status == s for r in rows))
    left = time_left(rows)
    about = f'; about {clock(left)} left at this pace' if left is not None else ''
    table = Table(title=f'{title}: {counts}{about}', title_justify='left')
    for name in ('job', 'state', 'step', 'last validation', 'best so far', 'time', 'left', 'note'):
        table.add_column(name, justify='right' if name in ('step', 'time', 'left') else 'left', overflow='fold')
    for r in rows:
        step = f'{r.step}/{r.total} {100 * r.step // r.total:3d} %' if r.total else str(r.step or '')
        table.add_row(
            r.title,
            f'[{STYLES[r.status]}]{r.status}[/]',
            step,
            r.validation,
            r.best,
            clock(r.seconds) if r.seconds else '',
            clock(r.left) if r.left is not None else '',
            r.note,
        )
    return table


def clock(seconds: float) -> str:
    return f'{int(seconds) // 3600}:{int(seconds) // 60 % 60:02d}:{int(seconds) % 60:02d}'


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('project', type=Path, help='folder with exp/')
    parser.add_argument('--watch', type=float, metavar='SECONDS', help='show it again and again')
    args = parser.parse_args(argv)
    console = Console()
    try:
        table = make_table(read_status(args.project), args.project.name)
        if not args.watch:
            console.print(table)
            return 0
        with Live(table, console=console, auto_refresh=False) as live:
            while True:
                time.sleep(args.watch)
                live.update(make_table(read_status(args.project), args.project.name), refresh=True)
    except (OSError, ValueError) as err:
        print(f'error: {err}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0


if __name__ == '__main__':
    sys.exit(main())
