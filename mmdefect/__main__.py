"""``mmdefect COMMAND``, or ``python -m mmdefect COMMAND``: the doctor and the tools, which come with the package."""

import argparse
import ast
import runpy
import sys
from pathlib import Path

from mmdefect import __version__

DOCTOR = 'what is installed, what works, and the command that fixes what does not; exit code 1 when nothing can run'


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    tools = find_tools()
    if arguments and arguments[0] in tools:
        path = tools[arguments[0]]
        sys.argv = [f'mmdefect {path.stem}', *arguments[1:]]
        runpy.run_path(str(path), run_name='__main__')  # it ends with sys.exit
        return 0
    about, width = ['tools (mmdefect TOOL --help):'], max(map(len, (*tools, 'doctor')))
    if '-h' in arguments or '--help' in arguments:
        about += [f'  {name:{width}}  {_first_line(path)}' for name, path in tools.items()]
    parser = argparse.ArgumentParser(
        prog='mmdefect',
        description='Commands about the installation, and the tools.',
        epilog='\n'.join(about),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument('--version', action='version', version=f'mmdefect {__version__}')
    parser.add_argument('command', choices=['doctor', *tools], metavar='COMMAND', help=f'doctor: {DOCTOR}; or a tool')
    parser.parse_args(arguments)

    from mmdefect.doctor import examine, render

    print('Trying out what is installed; this takes up to a minute ...', file=sys.stderr, flush=True)
    found = examine()
    print(render(found), end='')
    return found.exit_code


def find_tools() -> dict[str, Path]:
    """Return the tools by name: those of the checkout, or those that were installed with the package."""
    package = Path(__file__).resolve().parent
    installed = package / '.mim' / 'tools'
    folder = installed if installed.is_dir() else package.parent / 'tools'
    return {path.stem: path for path in sorted(folder.glob('*.py'))}


def _first_line(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text(encoding='utf-8'))) or '').partition('\n')[0]


if __name__ == '__main__':
    sys.exit(main())
