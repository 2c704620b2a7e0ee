"""``generate.py edit``."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmdefect.diffusion.commands.model_options import add_model_arguments, read_model_options

DESCRIPTION = """Edit images by exchanging a word of their description: null-text inversion, prompt-to-prompt, RLI.

    python tools/generate.py edit --model models/sdxl --images data/wta/img_dir/train --labels data/wta/ann_dir/train \\
        --source-word crack --words scratch rust dent --out generated/edits --resolution 512 512 --dtype bf16

Each word makes a set below --out, with report.csv: PSNR, SSIM (and LPIPS) of reconstruction and edit. Labels are
recorded, not copied: defects move, so make new ones with `relabel`. A stopped run goes on with the same command.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from mmdefect.diffusion.edit import WORDS

    parser.add_argument('--images', type=Path, required=True, help='folder of images')
    parser.add_argument('--labels', type=Path, help='folder of their labels, by stem; recorded for `relabel`')
    parser.add_argument('--out', type=Path, required=True, help='folder of the sets')
    parser.add_argument('--prompt', default='photo of a {word} defect image')
    parser.add_argument('--source-word', default='crack', help='what the images show; default crack')
    parser.add_argument('--words', nargs='+', default=list(WORDS), help=f'default: {" ".join(WORDS)}')
    parser.add_argument('--negative-prompt', default='')
    parser.add_argument(
        '--mode',
        choices=['replace', 'refine', 'auto'],
        default='replace',
        help='replace word by word; refine: align texts of different lengths; auto: what is possible',
    )
    parser.add_argument('--cross-replace', type=float, default=1.0, help='share of the steps; default 1')
    parser.add_argument('--self-replace', type=float, default=0.8, help='share of the steps; default 0.8')
    parser.add_argument('--weight', type=float, default=2.0, help='factor on the attention to the new word; default 2')
    parser.add_argument('--no-local-blend', action='store_true', help='let all of the image change')
    parser.add_argument('--blend-threshold', type=float, default=0.3)
    parser.add_argument('--blend-start', type=float, default=0.2)
    parser.add_argument(
        '--blend-factor', type=int, default=2, help='side of the latents over side of the maps; default 2'
    )
    parser.add_argument('--alpha', type=float, default=0.1, help='of RLI; 0 switches it off')
    parser.add_argument('--places', nargs='+', default=['up'], help='blocks in which RLI acts: down, mid, up')
    parser.add_argument('--guidance', type=float, default=5.0)
    parser.add_argument('--steps', type=int, default=50, help='of DDIM; default 50')
    parser.add_argument(
        '--inner-steps', type=int, default=10, help='updates of the null text in each; 0: plain inversion'
    )
    parser.add_argument('--learning-rate', type=float, default=1e-2, help='of the null text')
    parser.add_argument('--gradient-checkpointing', action='store_true', help='less memory for the null text, slower')
    parser.add_argument(
        '--resolution',
        nargs=2,
        type=int,
        metavar=('H', 'W'),
        help='size that is computed (default: that of the images)',
    )
    parser.add_argument('--batch-size', type=int, default=1, help='images at once; default 1')
    parser.add_argument('--lpips-weights', type=Path, help="state dict of lpips.LPIPS(net='vgg'), for the report")
    parser.add_argument('--keep-reconstructions', action='store_true')
    add_model_arguments(parser)


def run(args: argparse.Namespace) -> None:
    from mmdefect.diffusion.edit import EditPlan, edit
    from mmdefect.diffusion.extras import need
    from mmdefect.diffusion.images import list_images
    from mmdefect.diffusion.loading import load_model
    from mmdefect.diffusion.null_text import NullTextSettings
    from mmdefect.diffusion.prompt_edit import EditSettings
    from mmdefect.diffusion.similarity import Lpips

    settings = EditSettings(
        mode=args.mode,
        cross_replace=args.cross_replace,
        self_replace=args.self_replace,
        weight=args.weight,
        local_blend=not args.no_local_blend,
        blend_threshold=args.blend_threshold,
        blend_start=args.blend_start,
        blend_factor=args.blend_factor,
        guidance=args.guidance,
        alpha=args.alpha,
        places=tuple(args.places),
    )
    null_text = NullTextSettings(args.inner_steps, args.learning_rate, guidance=args.guidance)
    plan = EditPlan(
        args.prompt, args.source_word, tuple(args.words), args.steps, args.resolution and tuple(args.resolution)
    )
    photos, lpips = list_images(args.images), args.lpips_weights and Lpips(args.lpips_weights)
    state = need('accelerate').PartialState(cpu=args.device == 'cpu')
    model = load_model(args.model, read_model_options(args, str(state.device)))
    if args.gradient_checkpointing:
        model.unet.enable_gradient_checkpointing()
    made = edit(
        model,
        photos,
        args.out,
        plan,
        settings,
        null_text,
        args.negative_prompt,
        args.batch_size,
        args.labels,
        lpips,
        (state.process_index, state.num_processes),
        args.keep_reconstructions,
    )
    print(f'written: {made} images in {args.out}, {len(photos) * len(plan.words)} in all')
