#!/usr/bin/env python3
"""Make defect images with latent diffusion, and data sets out of them. One subcommand for each step:

    python tools/generate.py COMMAND --help

docs/diffusion.md walks through them. Exit code: 0 done, 2 wrong input, 130 stopped (the same command goes on).
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

#: Commands and what they do; ``mmdefect.diffusion.commands`` has `add_NAME(parser)` and `run_NAME(args)` of each.
COMMANDS = {
    'random-model': 'write a tiny pipeline to try the commands with',
    'convert-ldm': 'read the published checkpoint of LDM text-to-image',
    'support': 'choose the few images that each defect type is learned from',
    'masks': 'make masks that say where a defect shall be',
    'learn': 'learn a token for each defect type',
    'sample': 'generate defects in the masks of good images',
    'edit': 'exchange a word of what images show',
    'relabel': 'give edits labels of their own, from what changed',
    'pack-boxes': 'write sampled images with their masks as weak labels',
    'pack': 'write the result as a data set to train on',
    'compare-words': 'choose among generated sets by what they trained',
}


def list_commands() -> str:
    width = max(map(len, COMMANDS))
    return '\n'.join(['commands:', *(f'  {name:{width}}  {text}' for name, text in COMMANDS.items())])


def main(argv: list[str] | None = None) -> int:
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ('-h', '--help'):
        print(f'{__doc__}\n{list_commands()}')
        return 0 if argv else 2
    if argv[0] not in COMMANDS:
        print(f'error: the command must be one of {", ".join(COMMANDS)}, got {argv[0]!r}.', file=sys.stderr)
        return 2
    from mmdefect.extras import stop_without

    stop_without('train')
    try:
        # `support` reads data sets through mmseg, which the package of generation does not import.
        where = 'mmdefect.apis.support_set' if argv[0] == 'support' else 'mmdefect.diffusion.commands'
        module, name = importlib.import_module(where), argv[0].replace('-', '_')
        add, run = getattr(module, f'add_{name}'), getattr(module, f'run_{name}')
        how = argparse.RawDescriptionHelpFormatter
        parser = argparse.ArgumentParser(f'generate.py {argv[0]}', description=inspect.getdoc(run), formatter_class=how)
        add(parser)
        return run(parser.parse_args(argv[1:])) or 0
    except KeyboardInterrupt:
        print('stopped; the same command goes on from here.', file=sys.stderr)
        return 130
    except (ValueError, OSError, RuntimeError, ImportError) as err:
        if os.environ.get('MMDEFECT_TRACEBACK'):
            raise
        text = err.strerror if isinstance(err, OSError) and err.strerror and not err.filename else err
        print(f'error: {text}', file=sys.stderr)
        return 2


if __name__ == '__main__':
    sys.exit(main())
