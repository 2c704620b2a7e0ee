"""``generate.py sample``."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from mmdefect.diffusion.commands.model_options import add_model_arguments, read_model_options
from mmdefect.experiments.engine_options import add_worker_options

DESCRIPTION = """Generate defects in the masks of clean images; outside its mask an image stays as it was.

    python tools/generate.py sample --model models/sd15 --images data/bottle/train/good --masks masks/bottle \\
        --tokens tokens/bottle --out generated/bottle --resolution 512 512 --batch-size 8 --dtype bf16

A stopped run goes on with the same command. `accelerate launch --num_processes N tools/generate.py sample ...` shares
the work among N GPUs of one machine; `--engine ray --workers N --gpus-per-worker 1` among those of a cluster.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--images', type=Path, required=True, help='folder of clean images')
    parser.add_argument('--labels', type=Path, help='folder of their labels: images with a defect are left out')
    parser.add_argument('--masks', type=Path, required=True, help='set of masks')
    parser.add_argument('--out', type=Path, required=True, help='folder of the generated set')
    parser.add_argument('--tokens', type=Path, help='folder that `learn` wrote (default: the prompt is plain text)')
    parser.add_argument('--types', nargs='+', help='only these defect types (default: all of the masks)')
    parser.add_argument(
        '--class-ids', nargs='+', default=[], metavar='TYPE=ID', help='class of each type in label maps'
    )
    parser.add_argument(
        '--prompt',
        help='{token}: learned token, {type}: name of the type (default: "a photo of '
        '{token}", or "{type}" without tokens)',
    )
    parser.add_argument('--negative-prompt', default='')
    parser.add_argument('--masks-per-image', type=int, default=2, help='for each type; default 2')
    parser.add_argument('--samples', type=int, default=1, help='images for each mask; default 1')
    parser.add_argument('--steps', type=int, default=50)
    parser.add_argument('--guidance', type=float, default=10.0, help='default 10; 1 switches it off')
    parser.add_argument('--scheduler', default='ddim', help='ddim, dpm++, euler, euler-a, heun, lms, pndm, unipc')
    parser.add_argument('--eta', type=float, default=0.0, help='noise that ddim adds')
    parser.add_argument('--seam', choices=['none', 'poisson'], default='none')
    parser.add_argument(
        '--resolution',
        nargs=2,
        type=int,
        metavar=('H', 'W'),
        help='size that is computed (default: that of the images)',
    )
    parser.add_argument('--batch-size', type=int, default=4, help='images at once; default 4')
    parser.add_argument('--seed', type=int, default=0)
    add_model_arguments(parser)
    add_worker_options(parser)


def run(args: argparse.Namespace) -> None:
    from mmdefect.experiments.bulk import map_items
    from mmdefect.experiments.engine_options import workers_of

    workers = workers_of(args)
    if workers.engine == 'local' and workers.count == 1:
        made, total = sampler(args)(None)
    else:
        # More shares than workers, so that one that is lost costs little and none waits long for the last.
        shares = [(k, 4 * workers.count) for k in range(4 * workers.count)]
        results = list(map_items(partial(sampler, args), shares, workers))
        made, total = sum(count for count, _ in results), results[0][1]
    print(f'written: {made} images in {args.out}, {total} in all')


def sampler(args: argparse.Namespace):
    """Load the model; return what generates one share of the images, ``(number, of)``.

    It returns how many images it made, and how many the set has. The share ``None`` is that of this process among
    those that accelerate started.
    """
    from mmdefect.diffusion.blended import BlendSettings
    from mmdefect.diffusion.extras import need
    from mmdefect.diffusion.images import list_clean
    from mmdefect.diffusion.loading import load_model
    from mmdefect.diffusion.mask_sets import read_list
    from mmdefect.diffusion.sample import plan_samples, sample

    settings = BlendSettings(args.steps, args.guidance, args.scheduler, args.eta, args.seam)
    prompt = args.prompt or ('a photo of {token}' if args.tokens else '{type}')
    jobs = plan_samples(
        list_clean(args.images, args.labels),
        args.masks,
        read_list(args.masks),
        prompt,
        args.seed,
        args.masks_per_image,
        args.samples,
        args.types,
    )
    class_ids = read_class_ids(args.class_ids)
    state = need('accelerate').PartialState(cpu=args.device == 'cpu')
    model = load_model(args.model, read_model_options(args, str(state.device)))
    bank = load_banks(args.tokens, sorted({job.entry.defect_type for job in jobs}), model) if args.tokens else None
    facts = dict(prompt=prompt, seed=args.seed, tokens=bank and bank.facts)

    def generate(share: tuple[int, int] | None) -> tuple[int, int]:
        made = sample(
            model,
            jobs,
            args.out,
            settings,
            bank,
            args.negative_prompt,
            args.batch_size,
            args.resolution and tuple(args.resolution),
            facts,
            class_ids,
            share or (state.process_index, state.num_processes),
        )
        return made, len(jobs)

    return generate


def read_class_ids(items: list[str]) -> dict[str, int]:
    """Parse ``TYPE=ID``."""
    pairs = dict(item.rpartition('=')[::2] for item in items)
    wrong = [f'{k}={v}' for k, v in pairs.items() if not k or not v.isdigit() or int(v) < 1]
    if wrong:
        raise ValueError(f'`--class-ids` must be TYPE=ID with ID at least 1, got {wrong[0]!r}.')
    return {k: int(v) for k, v in pairs.items()}


def load_banks(folder: Path, types: list[str], model):
    """Return the tokens of all types as one bank; its facts tell them apart in the settings of the set."""
    import hashlib

    from mmdefect.diffusion.tokens import TokenBank, load_tokens

    files = [folder / name / 'token.safetensors' for name in types]
    bank = TokenBank.join([load_tokens(file, model) for file in files])
    bank.facts = {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in zip(types, files, strict=True)}
    return bank
