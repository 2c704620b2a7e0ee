"""Write an examination as plain text that stays readable in a terminal, a log and an issue."""

from __future__ import annotations

from .examine import Examination


def render(found: Examination) -> str:
    """Return the report; nothing in it is specific to one user except the path of the interpreter."""
    blocks = [
        _table([(f'{name}:', value) for name, value in found.machine]),
        _table(
            [
                ('package', 'installed', 'measured', ''),
                *((p.name, p.installed, p.measured or '-', p.remark) for p in found.packages),
            ]
        ),
        _table(
            [
                ('part', 'state', ''),
                (f'core ({found.core})', 'works' if found.core_works else 'BROKEN', ''),
                *((p.name, p.state, p.note) for p in found.parts),
            ]
        ),
    ]
    for finding in found.findings:
        blocks.append(f'{finding.level}: {finding.what}\n  mend: {finding.mend}')
    blocks.append(
        'mmdefect can run here.'
        if found.exit_code == 0
        else 'mmdefect cannot run here; mend the errors from the top, then run doctor again.'
    )
    return '\n\n'.join(blocks) + '\n'


def _table(rows: list[tuple[str, ...]]) -> str:
    """Align all columns but the last."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    lines = ['  '.join([*(cell.ljust(width) for cell, width in zip(row, widths)), row[-1]]).rstrip() for row in rows]
    return '\n'.join(lines)
