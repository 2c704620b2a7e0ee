"""``generate.py learn``."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmdefect.diffusion.commands.model_options import add_model_arguments, read_model_options

DESCRIPTION = """Learn a token for each defect type of a support set; a stopped run goes on from its last checkpoint.

    python tools/generate.py learn --model models/sd15 --support support/bottle --out tokens/bottle --resolution 512 512
    accelerate launch --num_processes 4 tools/generate.py learn ...
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--support', type=Path, required=True, help='folder of the support set')
    parser.add_argument('--out', type=Path, required=True, help='folder; each type gets one below it')
    parser.add_argument('--types', nargs='+', help='only these types (default: all of the support set)')
    parser.add_argument('--steps', type=int, default=6100, help='updates; default 6100')
    parser.add_argument(
        '--batch-size', type=int, default=4, help='images of a process in a part of an update; default 4'
    )
    parser.add_argument('--accumulate', type=int, default=1, help='parts of an update; default 1')
    parser.add_argument(
        '--learning-rate', type=float, default=5e-3, help='default 0.005; the published code ends at 0.02'
    )
    parser.add_argument('--weight-decay', type=float, default=0.0, help='default 0; the published code has 0.01')
    parser.add_argument('--vectors', type=int, default=1, help='vectors of a token; default 1')
    parser.add_argument('--init-word', default='defect', help='word whose vectors learning starts from')
    parser.add_argument(
        '--normalise',
        choices=['area', 'none'],
        default='area',
        help='mean of the loss over the mask (default), or over all pixels, as published',
    )
    parser.add_argument('--no-flip', action='store_true', help='do not mirror the images')
    parser.add_argument('--resolution', nargs=2, type=int, default=(256, 256), metavar=('H', 'W'))
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--preview-every', type=int, default=500, help='updates between previews, 0 for none')
    parser.add_argument('--preview-steps', type=int, default=50, help='steps of the sampler of a preview')
    parser.add_argument('--checkpoint-every', type=int, default=500, help='updates between checkpoints')
    parser.add_argument('--templates', type=Path, help='text file of sentences with {}, one a line')
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> None:
    from mmdefect.diffusion.blended import BlendSettings
    from mmdefect.diffusion.extras import need
    from mmdefect.diffusion.learn import learn_token
    from mmdefect.diffusion.loading import load_model
    from mmdefect.diffusion.support import read_support
    from mmdefect.ranks import end_rank, leave_group

    if args.offload != 'none':
        raise ValueError('`--offload` must be none for learning, which needs the whole pipeline on the device.')
    settings = make_settings(args)
    support = read_support(args.support)
    shots = {name: support.load(name) for name in args.types or support.types}
    accelerator = need('accelerate').Accelerator(
        gradient_accumulation_steps=settings.accumulate, cpu=bool(args.device) and args.device == 'cpu'
    )
    model = load_model(args.model, read_model_options(args, str(accelerator.device)))
    for name, pairs in shots.items():
        facts = dict(shots=[s.sha256 for s in support.shots if s.type == name], dtype=args.dtype)
        done = learn_token(
            model,
            pairs,
            name,
            args.out / name,
            settings,
            accelerator,
            facts,
            BlendSettings(steps=args.preview_steps),
            accelerator.print,
        )
        accelerator.print(f'written: {done}')
    if accelerator.num_processes > 1:
        leave_group()
        end_rank(0)


def make_settings(args: argparse.Namespace):
    from mmdefect.diffusion.learn import LearnSettings

    options = {}
    if args.templates:
        options['templates'] = tuple(
            line.strip() for line in args.templates.read_text(encoding='utf-8').splitlines() if line.strip()
        )
    return LearnSettings(
        args.steps,
        args.batch_size,
        args.accumulate,
        args.learning_rate,
        args.weight_decay,
        args.vectors,
        args.init_word,
        args.normalise,
        not args.no_flip,
        tuple(args.resolution),
        args.seed,
        args.preview_every,
        args.checkpoint_every,
        **options,
    )
