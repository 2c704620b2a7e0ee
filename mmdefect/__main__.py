"""``mmdefect COMMAND``, or ``python -m mmdefect COMMAND``: the doctor, and the tools, which an installed package brings along."""

from __future__ import annotations

import argparse
import ast
import runpy
import sys
from pathlib import Path

from mmdefect import __version__

DOCTOR = 'what is installed, what works, and the command that mends what does not; exit code 1 when nothing can run'


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    tools = find_tools()
    if arguments and arguments[0] in tools:
        return _run_tool(tools[arguments[0]], arguments[1:])
    width = max(map(len, (*tools, 'doctor')))
    about = (
        {name: f'  {name:{width}}  {_first_line(path)}' for name, path in tools.items()}
        if '-h' in arguments or '--help' in arguments
        else {}
    )
    parser = argparse.ArgumentParser(
        prog='mmdefect',
        description='Commands about the installation, and the tools.',
        epilog='\n'.join(['tools (mmdefect TOOL --help):', *about.values()]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--version', action='version', version=f'mmdefect {__version__}')
    parser.add_argument('command', choices=['doctor', *tools], metavar='COMMAND', help=f'doctor: {DOCTOR}; or a tool')
    parser.parse_args(arguments)
    return _doctor()


def find_tools() -> dict[str, Path]:
    """Return the tools by name: those of the checkout, or those that were installed with the package."""
    package = Path(__file__).resolve().parent
    installed = package / '.mim' / 'tools'
    folder = installed if installed.is_dir() else package.parent / 'tools'
    return {path.stem: path for path in sorted(folder.glob('*.py'))}


def _run_tool(path: Path, arguments: list[str]) -> int:
    sys.argv = [f'mmdefect {path.stem}', *arguments]
    runpy.run_path(str(path), run_name='__main__')  # it ends with sys.exit
    return 0


def _first_line(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text(encoding='utf-8'))) or '').partition('\n')[0]


def _doctor() -> int:
    from mmdefect.doctor import examine, render

    print('Trying out what is installed; this takes up to a minute ...', file=sys.stderr, flush=True)
    found = examine()
    print(render(found), end='')
    return found.exit_code


if __name__ == '__main__':
    sys.exit(main())
