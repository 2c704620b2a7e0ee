#!/usr/bin/env python3
"""Make defect images with latent diffusion, and data sets out of them. One subcommand for each step:

    python tools/generate.py COMMAND --help

docs/diffusion.md walks through them. Exit code: 0 done, 2 wrong input, 130 stopped (the same command goes on).
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

#: Command, and the module with its `DESCRIPTION`, `add_arguments(parser)` and `run(args)`; only the one used is loaded.
COMMANDS = {
    'random-model': ('mmdefect.diffusion.commands.random_model', 'write a tiny pipeline to try the commands with'),
    'support': ('mmdefect.apis.support_set', 'choose the few images that each defect type is learned from'),
    'masks': ('mmdefect.diffusion.commands.masks', 'draw masks that say where a defect shall be'),
    'learn': ('mmdefect.diffusion.commands.learn', 'learn a token for each defect type'),
    'sample': ('mmdefect.diffusion.commands.sample', 'generate defects in the masks of clean images'),
    'edit': ('mmdefect.diffusion.commands.edit', 'exchange a word of what images show'),
    'relabel': ('mmdefect.diffusion.commands.relabel', 'give edits labels of their own, from what changed'),
    'pack-boxes': ('mmdefect.diffusion.commands.pack_boxes', 'write sampled images with their masks as weak labels'),
    'pack': ('mmdefect.diffusion.commands.pack', 'write the result as a data set to train on'),
    'compare-words': ('mmdefect.diffusion.commands.compare_words', 'choose among generated sets by what they trained'),
}


def list_commands() -> str:
    width = max(map(len, COMMANDS))
    return '\n'.join(['commands:', *(f'  {name:{width}}  {text}' for name, (_, text) in COMMANDS.items())])


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
        module = importlib.import_module(COMMANDS[argv[0]][0])
        parser = argparse.ArgumentParser(
            prog=f'generate.py {argv[0]}',
            description=module.DESCRIPTION,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_arguments(parser)
        return module.run(parser.parse_args(argv[1:])) or 0
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
