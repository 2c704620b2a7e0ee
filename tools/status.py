#!/usr/bin/env python3
"""Show the jobs of a project while they run: state, iteration, last validation, time.

    python tools/status.py work_dirs/studies            # once
    python tools/status.py work_dirs/studies --watch 5  # again every 5 seconds, until Ctrl-C
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mmdefect.experiments.progress import Progress, read_progress  # noqa: E402

STYLES = {'done': 'green', 'running': 'cyan', 'failed': 'red', 'lost': 'yellow', 'pending': 'dim'}


def make_table(rows: list[Progress], title: str) -> Table:
    counts = ', '.join(f'{sum(r.status == s for r in rows)} {s}' for s in STYLES if any(r.status == s for r in rows))
    table = Table(title=f'{title}: {counts}', title_justify='left')
    for name in ('job', 'state', 'step', 'last validation', 'minutes', 'note'):
        table.add_column(name, justify='right' if name in ('step', 'minutes') else 'left', overflow='fold')
    for r in rows:
        step = f'{r.step}/{r.total}' if r.total else str(r.step or '')
        table.add_row(r.title, f'[{STYLES[r.status]}]{r.status}[/]', step, r.validation, f'{r.seconds / 60:.1f}',
                      r.note)
    return table


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('project', type=Path, help='folder with exp/')
    parser.add_argument('--watch', type=float, metavar='SECONDS', help='show it again and again')
    args = parser.parse_args(argv)
    console = Console()
    try:
        table = make_table(read_progress(args.project), args.project.name)
        if not args.watch:
            console.print(table)
            return 0
        with Live(table, console=console, auto_refresh=False) as live:
            while True:
                time.sleep(args.watch)
                live.update(make_table(read_progress(args.project), args.project.name), refresh=True)
    except (OSError, ValueError) as err:
        print(f'error: {err}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 0


if __name__ == '__main__':
    sys.exit(main())
