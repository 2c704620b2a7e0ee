"""Print the leaf configs, one row a model and one column a data set, and the recipes to lay over them with --with."""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mmdefect.recipes import first_comment, list_recipes


def parse_name(stem: str) -> tuple[str, str, str, str]:
    """Split ``model_recipe_schedule_data`` into its four parts; a shorter name leaves the schedule empty."""
    parts = stem.split('_')
    if len(parts) == 4:
        return tuple(parts)
    return parts[0], '_'.join(parts[1:-1]), '', parts[-1]


def find_leaves(root: Path) -> list[Path]:
    return sorted(p for p in root.glob('[!_]*/*.py') if p.parent.name != 'studies')


def matrix(root: Path) -> tuple[dict[str, dict[str, list[str]]], list[str]]:
    """Return the cells by model and data set, and the data sets found."""
    cells: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for path in find_leaves(root):
        model, recipe, schedule, data = parse_name(path.stem)
        cells[f'{path.parent.name}/{model}'][data].append(' '.join(filter(None, (recipe, schedule))))
    return cells, sorted({data for row in cells.values() for data in row})


def recipe_lines(root: Path) -> list[str]:
    """Return the recipes by kind, a line each with the first sentence of its file."""
    lines = []
    for kind, files in list_recipes(root).items():
        lines += ['', f'{kind}:', *(f'  {path.stem:24} {first_comment(path)}' for path in files)]
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--root', type=Path, default=ROOT / 'configs', help='folder of the configs')
    parser.add_argument('--paths', action='store_true', help='print one path a line instead of the matrix')
    args = parser.parse_args()
    if args.paths:
        print(*find_leaves(args.root), sep='\n')
        return 0
    from mmdefect.extras import stop_without

    stop_without('train', 'prettytable')
    from prettytable import HRuleStyle, PrettyTable

    cells, columns = matrix(args.root)
    table = PrettyTable(['model', *columns], align='l', hrules=HRuleStyle.ALL)
    for model, row in cells.items():
        table.add_row([model, *('\n'.join(row.get(column, ())) for column in columns)])
    print(table)
    print(f'{len(cells)} models; a leaf is configs/<folder>/<model>_<recipe>_<schedule>_<data>.py')
    print('\nRecipes, laid over a leaf with --with NAME ...; later ones win:', *recipe_lines(args.root), sep='\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
