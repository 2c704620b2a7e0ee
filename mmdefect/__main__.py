"""``python -m mmdefect``: commands about the installation; training and testing are in tools/."""

from __future__ import annotations

import argparse
import sys

from mmdefect import __version__


def main(arguments: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    parser = argparse.ArgumentParser(prog='mmdefect', description=__doc__)
    parser.add_argument('--version', action='version', version=f'mmdefect {__version__}')
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')
    commands.add_parser('doctor', help='what is installed, what works, and the command that mends what does not; '
                        'exit code 1 when the core cannot run').set_defaults(run=_doctor)
    return parser.parse_args(arguments).run()


def _doctor() -> int:
    from mmdefect.doctor import examine, render

    print('Trying out what is installed; this takes up to a minute ...', file=sys.stderr, flush=True)
    found = examine()
    print(render(found), end='')
    return found.exit_code


if __name__ == '__main__':
    sys.exit(main())
