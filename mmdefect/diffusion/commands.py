"""The subcommands of ``tools/generate.py``: ``add_NAME`` adds the arguments, ``run_NAME`` makes one call.

The docstring of ``run_NAME`` is what ``--help`` shows.
"""

import argparse
import hashlib
from collections.abc import Callable, Iterable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from mmdefect.diffusion import pack
from mmdefect.diffusion.compvis import convert_ldm
from mmdefect.diffusion.edit import WORDS, EditPlan, Lpips, edit
from mmdefect.diffusion.images import list_good, list_images, read_image, read_mask
from mmdefect.diffusion.inversion import NullTextSettings
from mmdefect.diffusion.learn import LearnSettings, learn_token
from mmdefect.diffusion.masks import BoxRange, MaskRule, find_range, read_list, read_ranges, write_list, write_masks
from mmdefect.diffusion.model import LatentModel, ModelOptions, load_model
from mmdefect.diffusion.prompt_edit import EditSettings
from mmdefect.diffusion.random_model import save_pipeline
from mmdefect.diffusion.relabel import Limits, RelabelSettings
from mmdefect.diffusion.relabel_run import (
    estimate_noise,
    find_pairs,
    learn_from_folders,
    read_decisions,
    relabel_pairs,
    summarise,
)
from mmdefect.diffusion.sample import BlendSettings, plan_samples, sample
from mmdefect.diffusion.support import donor_library, read_support
from mmdefect.diffusion.tokens import TokenBank, find_token, load_tokens
from mmdefect.experiments.bulk import add_worker_options, map_items, workers_of
from mmdefect.experiments.compare import published_sentences, render
from mmdefect.experiments.study import read_study
from mmdefect.experiments.study_page import compare_study
from mmdefect.experiments.study_records import read_records
from mmdefect.extras import require
from mmdefect.files import write_text
from mmdefect.progress import track
from mmdefect.ranks import end_rank, leave_group
from mmdefect.synthesis.foreground import find_foreground
from mmdefect.synthesis.library import DefectLibrary


def _add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--model`` and how it is held in memory."""
    add = parser.add_argument_group('model').add_argument
    kinds = 'LDM text-to-image, Stable Diffusion, SDXL'
    add('--model', required=True, help=f'folder in the format of diffusers, or hub id: {kinds}')
    add('--revision', help='of a hub id')
    add('--variant', help='of the weight files, such as fp16')
    add('--device', help='default: the GPU of this process, or the CPU where there is none')
    add('--dtype', choices=['fp32', 'fp16', 'bf16'], default='fp32')
    offload = 'keep on the device only the part (or layer) that computes'
    add('--offload', choices=['none', 'model', 'sequential'], default='none', help=offload)
    add('--attention-slicing', action='store_true', help='less memory, slower')
    add('--vae-tiling', action='store_true', help='less memory for large images')


def _load_model(args: argparse.Namespace, device: str) -> LatentModel:
    """Load the model of parsed arguments; ``device`` is where this process computes."""
    memory = args.dtype, args.offload, args.attention_slicing, args.vae_tiling
    return load_model(args.model, ModelOptions(args.device or device, *memory, args.revision, args.variant))


def _process_state(args: argparse.Namespace):
    """Return accelerate's view of this process: its number, that of all, and its device."""
    require('generation', 'accelerate', who='generation')
    from accelerate import PartialState

    return PartialState(cpu=args.device == 'cpu')


def _read_class_ids(items: list[str]) -> dict[str, int]:
    """Parse ``TYPE=ID``."""
    pairs = dict(item.rpartition('=')[::2] for item in items)
    wrong = [f'{k}={v}' for k, v in pairs.items() if not k or not v.isdigit() or int(v) < 1]
    if wrong:
        raise ValueError(f'`--class-ids` must be TYPE=ID with ID at least 1, got {wrong[0]!r}.')
    return {k: int(v) for k, v in pairs.items()}


def add_random_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--kind', choices=['ldm', 'sd', 'sdxl'], default='sd')
    parser.add_argument('--out', type=Path, required=True, help='folder; must not exist')
    parser.add_argument('--seed', type=int, default=0)


def run_random_model(args: argparse.Namespace) -> None:
    """Write a tiny pipeline with random weights, to try all other commands without a download.

    It computes images of 32 or 64 pixels in seconds on a CPU; what it generates is noise.

        python tools/generate.py random-model --kind sd --out models/random
    """
    print(f'written: {save_pipeline(args.out, args.kind, args.seed)}')


def add_convert_ldm(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('checkpoint', type=Path, help='model.ckpt of LDM text-to-image (CompVis, text2img-large)')
    parser.add_argument('--out', type=Path, required=True, help='folder; must not exist')
    words = 'folder or hub id of the tokenizer of uncased BERT, which the checkpoint lacks'
    parser.add_argument('--tokenizer', default='bert-base-uncased', help=f'{words}; default bert-base-uncased')


def run_convert_ldm(args: argparse.Namespace) -> None:
    """Write a CompVis checkpoint of LDM text-to-image in the format of diffusers, for --model of the other commands.

        python tools/generate.py convert-ldm models/ldm/text2img-large/model.ckpt --tokenizer bert-base-uncased \\
            --out models/ldm-diffusers
    """
    print(f'written: {convert_ldm(args.checkpoint, args.out, args.tokenizer)}')


def add_masks(parser: argparse.ArgumentParser) -> None:
    add, switch = parser.add_argument, argparse.BooleanOptionalAction
    add('--out', type=Path, required=True, help='folder of the set; must not hold one')
    add('--category', required=True, help='product; also the name in the ranges')
    add('--types', nargs='+', help='defect types (default: all types of the category in the ranges)')
    add('--ranges', type=Path, help='YAML of sizes, or mvtec_range.json of AnoGen, instead of those for MVTec AD')
    add('--width', nargs=2, type=float, metavar=('LOW', 'HIGH'), help='fraction of the image')
    add('--height', nargs=2, type=float, metavar=('LOW', 'HIGH'), help='fraction of the image')
    add('--rotate', action=switch, help='turn the masks at random (default: as the range says)')
    add('--kind', choices=['box', 'perlin', 'scratch', 'donor'], default='box', help='shape of the masks')
    add('--library', type=Path, help='folder of a defect library, for --kind donor')
    add('--class-id', type=int, help='class of the donors (default: all)')
    add('--support', type=Path, help='support set whose defects are the donors, each type its own')
    template = 'mask of the allowed region, for all images, or a folder of them, CATEGORY/TYPE/mask.png'
    add('--template', type=Path, help=template)
    add('--images', type=Path, help='folder of images that --foreground looks at')
    add('--labels', type=Path, help='folder of their labels: images with a defect are left out')
    add('--foreground', action='store_true', help='allow the object that is found in each image')
    add('--size', nargs=2, type=int, metavar=('H', 'W'), help='of the images: allow all, or bring templates to it')
    add('--count', type=int, default=100, help='masks for each type (and image); default 100')
    add('--min-overlap', type=float, default=0.75, help='share of a box on the region; default 0.75')
    add('--clip', action=switch, help='cut off what lies beyond the region (default: of shapes, not of boxes)')
    add('--attempts', type=int, default=1000, help='boxes tried for one mask; default 1000')
    add('--seed', type=int, default=0)


def run_masks(args: argparse.Namespace) -> None:
    """Make masks that say where a defect shall be, and write them as a set.

    Where they may lie: on a template (--template), on the object of each image (--foreground with --images), or
    anywhere in the frame (--size). How large: --category with --types looks sizes up in the ranges for MVTec AD or in
    --ranges; --width and --height give them.

        python tools/generate.py masks --out masks/bottle --category bottle --template ring.png --count 100
        python tools/generate.py masks --out masks/wta --category insert --types attached --width 0.02 0.1 \\
            --height 0.02 0.1 --images data/wta/img_dir/train --foreground --kind perlin --count 2
    """
    if (args.out / 'masks.json').exists():
        raise ValueError(f'{args.out} must not hold a set of masks yet, but it has masks.json; name another folder.')
    if args.count < 1:
        raise ValueError(f'`--count` must be at least 1, got {args.count}.')
    rules, entries = _mask_rules(args), []
    regions, number = _mask_regions(args, list(rules))
    for source, region, types in track(regions, 'masks', number):
        chosen = {name: rules[name] for name in types}
        entries += write_masks(args.out, args.category, chosen, source, region, args.count, args.seed)
    write_list(args.out, entries)
    print(f'written: {len(entries)} masks in {args.out}')


def _mask_rules(args: argparse.Namespace) -> dict:
    """Return how masks are sampled, by defect type."""
    sizes, class_ids = _mask_sizes(args), {}
    if args.kind == 'donor' and (args.library is None) == (args.support is None):
        raise ValueError('`--kind donor` must have donors: either --library or --support.')
    library = DefectLibrary(args.library) if args.library else None
    if args.support:
        support = read_support(args.support)
        missing = sorted(set(sizes) - set(support.types))
        if missing:
            raise ValueError(f'`--types` must be types of the support set, {support.types}, got {missing[0]!r}.')
        library = donor_library(support, args.out / 'donors')
        class_ids = {name: 1 + support.types.index(name) for name in sizes}
    rule = partial(MaskRule, kind=args.kind, min_overlap=args.min_overlap, attempts=args.attempts, library=library)
    return {
        name: rule(size, class_id=class_ids.get(name, args.class_id), clip=args.clip) for name, size in sizes.items()
    }


def _mask_sizes(args: argparse.Namespace) -> dict:
    """Return the range of sizes of each defect type."""
    if (args.width is None) != (args.height is None):
        raise ValueError('`--width` and `--height` must be given together.')
    if args.width is not None:
        size = tuple(args.width), tuple(args.height), bool(args.rotate)
        return {name: BoxRange(*size, f'{args.category}/{name}') for name in args.types or ['defect']}
    ranges = read_ranges(args.ranges) if args.ranges else read_ranges()
    names = args.types or sorted(ranges.get(args.category, {})) or ['']
    found = {name: find_range(ranges, args.category, name) for name in names}
    return found if args.rotate is None else {n: replace(r, rotate=args.rotate) for n, r in found.items()}


def _mask_regions(args: argparse.Namespace, types: list[str]) -> tuple[Iterable, int]:
    """Return images (``None``: any), the region where their masks may lie and the types it is for, and their number."""
    chosen = sum([bool(args.template), args.foreground, args.size is not None and not args.template])
    if chosen != 1:
        raise ValueError(
            f'one of --template, --foreground and --size must say where masks may lie, got {chosen} of them.'
        )
    if args.template:
        alone = not args.template.is_dir()
        files = {args.template: types} if alone else {_template(args, name): [name] for name in types}
        return [(None, _resized(read_mask(file), args.size), names) for file, names in files.items()], len(files)
    if args.size is not None:
        return [(None, np.ones(args.size, bool), types)], 1
    if args.images is None:
        raise ValueError('`--foreground` must have images to look at; name their folder with --images.')
    paths = list_good(args.images, args.labels)
    return ((str(path), find_foreground(read_image(path)) > 0, types) for path in paths), len(paths)


def _template(args: argparse.Namespace, name: str) -> Path:
    """Return the template of a type in a folder of them, which may be that of the category."""
    places = [args.template / args.category / name / 'mask.png', args.template / name / 'mask.png']
    return next((place for place in places if place.is_file()), places[0])


def _resized(mask: np.ndarray, size_hw: list[int] | None) -> np.ndarray:
    if size_hw is None:
        return mask
    return cv2.resize(mask.astype(np.uint8), size_hw[::-1], interpolation=cv2.INTER_NEAREST) > 0


def add_learn(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('--support', type=Path, required=True, help='folder of the support set')
    add('--out', type=Path, required=True, help='folder; each type gets one below it')
    add('--types', nargs='+', help='only these types (default: all of the support set)')
    add('--steps', type=int, default=6100, help='updates; default 6100')
    add('--batch-size', type=int, default=4, help='images of a process in a part of an update; default 4')
    add('--accumulate', type=int, default=1, help='parts of an update; default 1')
    add('--learning-rate', type=float, default=5e-3, help='default 0.005; the published code ends at 0.02')
    add('--weight-decay', type=float, default=0.0, help='default 0; the published code has 0.01')
    add('--vectors', type=int, default=1, help='vectors of a token; default 1')
    add('--init-word', default='defect', help='word whose vectors learning starts from')
    mean = 'mean of the loss over the mask (default), or over all pixels, as published'
    add('--normalise', choices=['area', 'none'], default='area', help=mean)
    add('--no-flip', action='store_true', help='do not mirror the images')
    add('--resolution', nargs=2, type=int, default=(256, 256), metavar=('H', 'W'))
    add('--seed', type=int, default=0)
    add('--preview-every', type=int, default=500, help='updates between previews, 0 for none')
    add('--preview-steps', type=int, default=50, help='steps of the sampler of a preview')
    add('--checkpoint-every', type=int, default=500, help='updates between checkpoints')
    add('--templates', type=Path, help='text file of sentences with {}, one a line')
    _add_model_options(parser)


def run_learn(args: argparse.Namespace) -> None:
    """Learn a token for each defect type of a support set; a stopped run goes on from its last checkpoint.

        python tools/generate.py learn --model models/sd15 --support support/bottle --out tokens/bottle \\
            --resolution 512 512
        accelerate launch --num_processes 4 tools/generate.py learn ...
    """
    require('generation', 'accelerate', who='generation')
    from accelerate import Accelerator

    if args.offload != 'none':
        raise ValueError('`--offload` must be none for learning, which needs the whole pipeline on the device.')
    given = {f.name: getattr(args, f.name) for f in fields(LearnSettings) if hasattr(args, f.name)}
    given.update(flip=not args.no_flip, size_hw=tuple(args.resolution))
    given.pop('templates')
    if args.templates:
        lines = map(str.strip, args.templates.read_text(encoding='utf-8').splitlines())
        given['templates'] = tuple(line for line in lines if line)
    settings = LearnSettings(**given)
    support = read_support(args.support)
    shots = {name: support.load(name) for name in args.types or support.types}
    accelerator = Accelerator(gradient_accumulation_steps=settings.accumulate, cpu=args.device == 'cpu')
    model = _load_model(args, str(accelerator.device))
    preview, say = BlendSettings(steps=args.preview_steps), accelerator.print
    for name, pairs in shots.items():
        facts = dict(shots=[s.sha256 for s in support.shots if s.type == name], dtype=args.dtype)
        done = learn_token(model, pairs, name, args.out / name, settings, accelerator, facts, preview, say)
        say(f'written: {done}')
    if accelerator.num_processes > 1:
        leave_group()
        end_rank(0)


def add_sample(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('--images', type=Path, required=True, help='folder of good images')
    add('--labels', type=Path, help='folder of their labels: images with a defect are left out')
    add('--masks', type=Path, required=True, help='set of masks')
    add('--out', type=Path, required=True, help='folder of the generated set')
    tokens = 'folder that `learn` wrote, or logs/ of AnoGen (default: the prompt is plain text)'
    add('--tokens', type=Path, help=tokens)
    add('--types', nargs='+', help='only these defect types (default: all of the masks)')
    add('--class-ids', nargs='+', default=[], metavar='TYPE=ID', help='class of each type in label maps')
    default = 'default: "a photo of {token}", or "{type}" without tokens'
    add('--prompt', help=f'{{token}}: learned token, {{type}}: name of the type ({default})')
    add('--negative-prompt', default='')
    add('--masks-per-image', type=int, default=2, help='for each type; default 2')
    add('--samples', type=int, default=1, help='images for each mask; default 1')
    add('--steps', type=int, default=50)
    add('--guidance', type=float, default=10.0, help='default 10; 1 switches it off')
    add('--scheduler', default='ddim', help='ddim, dpm++, euler, euler-a, heun, lms, pndm, unipc')
    add('--eta', type=float, default=0.0, help='noise that ddim adds')
    add('--seam', choices=['none', 'poisson'], default='none')
    _add_resolution(parser)
    add('--batch-size', type=int, default=4, help='images at once; default 4')
    add('--seed', type=int, default=0)
    _add_model_options(parser)
    add_worker_options(parser)


def _add_resolution(parser: argparse.ArgumentParser) -> None:
    text = 'size that is computed (default: that of the images)'
    parser.add_argument('--resolution', nargs=2, type=int, metavar=('H', 'W'), help=text)


def run_sample(args: argparse.Namespace) -> None:
    """Generate defects in the masks of good images; outside its mask an image stays as it was.

        python tools/generate.py sample --model models/sd15 --images data/bottle/train/good --masks masks/bottle \\
            --tokens tokens/bottle --out generated/bottle --resolution 512 512 --batch-size 8 --dtype bf16

    A stopped run goes on with the same command. `accelerate launch --num_processes N tools/generate.py sample ...`
    shares the work among N GPUs of one machine; `--engine ray --workers N --gpus-per-worker 1` among those of many.
    """
    workers = workers_of(args)
    if workers.engine == 'local' and workers.count == 1:
        made, total = _make_sampler(args)(None)
    else:
        # More shares than workers, so that one that is lost costs little and none waits long for the last.
        shares = [(k, 4 * workers.count) for k in range(4 * workers.count)]
        results = list(map_items(partial(_make_sampler, args), shares, workers))
        made, total = sum(count for count, _ in results), results[0][1]
    print(f'written: {made} images in {args.out}, {total} in all')


def _make_sampler(args: argparse.Namespace) -> Callable:
    """Load the model; return what generates one share of the images, ``(number, of)``.

    It returns how many images it made, and how many the set has. The share ``None`` is that of this process among
    those that accelerate started.
    """
    how = args.steps, args.guidance, args.scheduler, args.eta, args.seam, args.negative_prompt
    settings = BlendSettings(*how, args.resolution and tuple(args.resolution))
    prompt = args.prompt or ('a photo of {token}' if args.tokens else '{type}')
    images, entries = list_good(args.images, args.labels), read_list(args.masks)
    number = args.masks_per_image, args.samples
    jobs = plan_samples(images, args.masks, entries, prompt, args.seed, *number, args.types)
    class_ids = _read_class_ids(args.class_ids)
    state = _process_state(args)
    model, bank = _load_model(args, str(state.device)), None
    if args.tokens:
        types = dict(sorted((job.entry.defect_type, job.entry.category) for job in jobs))
        files = {name: find_token(args.tokens, category, name) for name, category in types.items()}
        bank = TokenBank.join([load_tokens(file, model, name) for name, file in files.items()])
        bank.facts = {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()}
    facts = dict(prompt=prompt, seed=args.seed, tokens=bank and bank.facts)

    def generate(share: tuple[int, int] | None) -> tuple[int, int]:
        process = share or (state.process_index, state.num_processes)
        made = sample(model, jobs, args.out, settings, bank, args.batch_size, facts, class_ids, process)
        return made, len(jobs)

    return generate


def add_edit(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('--images', type=Path, required=True, help='folder of images')
    add('--labels', type=Path, help='folder of their labels, by stem; recorded for `relabel`')
    add('--out', type=Path, required=True, help='folder of the sets')
    add('--prompt', default='photo of a {word} defect image')
    add('--source-word', default='crack', help='what the images show; default crack')
    add('--words', nargs='+', default=list(WORDS), help=f'default: {" ".join(WORDS)}')
    add('--negative-prompt', default='')
    mode = 'replace word by word; refine: align texts of different lengths; auto: what is possible'
    add('--mode', choices=['replace', 'refine', 'auto'], default='replace', help=mode)
    add('--cross-replace', type=float, default=1.0, help='share of the steps; default 1')
    add('--self-replace', type=float, default=0.8, help='share of the steps; default 0.8')
    add('--weight', type=float, default=2.0, help='factor on the attention to the new word; default 2')
    add('--no-local-blend', action='store_true', help='let all of the image change')
    add('--blend-threshold', type=float, default=0.3)
    add('--blend-start', type=float, default=0.2)
    add('--blend-factor', type=int, default=2, help='side of the latents over side of the maps; default 2')
    add('--alpha', type=float, default=0.1, help='of RLI; 0 switches it off')
    add('--places', nargs='+', default=['up'], help='blocks in which RLI acts: down, mid, up')
    add('--guidance', type=float, default=5.0)
    add('--steps', type=int, default=50, help='of DDIM; default 50')
    add('--inner-steps', type=int, default=10, help='updates of the null text in each; 0: plain inversion')
    add('--learning-rate', type=float, default=1e-2, help='of the null text')
    add('--gradient-checkpointing', action='store_true', help='less memory for the null text, slower')
    _add_resolution(parser)
    add('--batch-size', type=int, default=1, help='images at once; default 1')
    add('--lpips-weights', type=Path, help="state dict of lpips.LPIPS(net='vgg'), for the report")
    add('--keep-reconstructions', action='store_true')
    _add_model_options(parser)


def run_edit(args: argparse.Namespace) -> None:
    """Edit images by exchanging a word of their description: null-text inversion, prompt-to-prompt, RLI.

        python tools/generate.py edit --model models/sdxl --images data/wta/img_dir/train --out generated/edits \\
            --labels data/wta/ann_dir/train --source-word crack --words scratch rust dent --dtype bf16

    Each word makes a set below --out, with report.csv: PSNR, SSIM (and LPIPS) of reconstruction and edit. Labels are
    recorded, not copied: defects move, so make new ones with `relabel`. A stopped run goes on with the same command.
    """
    given = {f.name: getattr(args, f.name) for f in fields(EditSettings) if hasattr(args, f.name)}
    settings = EditSettings(**{**given, 'local_blend': not args.no_local_blend, 'places': tuple(args.places)})
    null_text = NullTextSettings(args.inner_steps, args.learning_rate, guidance=args.guidance)
    size = args.resolution and tuple(args.resolution)
    plan = EditPlan(args.prompt, args.source_word, tuple(args.words), args.steps, size, args.negative_prompt)
    images, lpips = list_images(args.images), args.lpips_weights and Lpips(args.lpips_weights)
    state = _process_state(args)
    model = _load_model(args, str(state.device))
    if args.gradient_checkpointing:
        model.unet.enable_gradient_checkpointing()
    process = state.process_index, state.num_processes
    how = args.batch_size, args.labels, lpips, process, args.keep_reconstructions
    made = edit(model, images, args.out, plan, settings, null_text, *how)
    print(f'written: {made} images in {args.out}, {len(images) * len(plan.words)} in all')


def _add_pair_options(parser: argparse.ArgumentParser, required: bool) -> None:
    """Add what names edits and their sources."""
    add = parser.add_argument
    add('--edits', type=Path, required=required, help='generated set (manifest.jsonl), or folder of images')
    add('--sources', type=Path, help='folder of the sources, for a folder of images')
    add('--labels', type=Path, help='folder of the label maps of the sources')
    add('--prefix', default='', help='what the name of an edit has in front of that of its source')
    add('--classes', nargs='+', required=required, help='names of the classes, the normal one first')


def add_relabel(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    _add_pair_options(parser, required=True)
    add('--out', type=Path, required=True, help='folder of the result')
    votes = 'folder of NAME.npy, (classes, H, W) of a trained segmenter; it then votes on the class'
    add('--probabilities', type=Path, help=votes)
    add('--learn-images', type=Path, help='images that show how defects look (default: --sources)')
    add('--learn-labels', type=Path, help='their label maps (default: --labels)')
    noise = 'estimate the noise of the reconstruction at each place over all edits (default; they share the pose), '
    add('--noise', choices=['set', 'pair'], default='set', help=f'{noise}or from each pair alone')
    add('--sheet-rows', type=int, default=6, help='edits on a sheet; default 6')
    for group, settings in (('thresholds', RelabelSettings), ('what rejects an edit', Limits)):
        add = parser.add_argument_group(f'{group}, see docs/relabel.md').add_argument
        for field in fields(settings):
            name, default = '--' + field.name.replace('_', '-'), field.default
            if isinstance(default, bool):
                add(name, action='store_true')
            else:
                add(name, type=type(default), default=default, help=f'default {default}')


def run_relabel(args: argparse.Namespace) -> None:
    """Give edited or generated images labels of their own, from what changed against their sources.

    Writes labels/NAME.png, relabel.json (what became of each defect and why an edit was rejected), sheets/*.jpg to look
    at and review.csv, whose column `decision` is for accept or reject. The labels of the sources are not copied.

        python tools/generate.py relabel --edits data/edits/img_dir --prefix new_ --sources data/wta/img_dir/train \\
            --labels data/wta/ann_dir/train --classes normal attached broken --out work_dirs/relabelled
        python tools/generate.py relabel --edits generated/wta --learn-images data/wta/img_dir/train \\
            --learn-labels data/wta/ann_dir/train --classes normal attached broken --out work_dirs/relabelled
    """
    settings, limits = (
        kind(**{field.name: getattr(args, field.name) for field in fields(kind)}) for kind in (RelabelSettings, Limits)
    )
    pairs = find_pairs(args.edits, args.sources, args.labels, args.prefix, args.probabilities)
    images, labels = args.learn_images or args.sources, args.learn_labels or args.labels
    if images is None or labels is None:
        raise ValueError('labelled images must show how defects look; give --learn-images and --learn-labels.')
    appearance = learn_from_folders(images, labels, len(args.classes))
    noise = estimate_noise(pairs, len(args.classes), settings.reach) if args.noise == 'set' else None
    if args.noise == 'set' and noise is None:
        print('too few edits, or edits of several sizes: the noise is estimated from each pair alone.')
    content = relabel_pairs(pairs, appearance, args.classes, args.out, noise, settings, limits, args.sheet_rows)
    print(summarise(content))
    print(f'written: {args.out}/labels, relabel.json, review.csv and sheets')


def add_pack(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('relabelled', nargs='?', type=Path, help='folder that relabel wrote')
    add('--out', type=Path, required=True, help='folder of the data set; must not exist')
    add('--review', type=Path, help='CSV of decisions (name, decision, corrected)')
    add('--copy-labels', action='store_true', help='take every edit, with the label of its source')
    only = 'with --copy-labels and a relabelled folder: only the edits that are accepted there'
    add('--only-accepted', action='store_true', help=only)
    _add_pair_options(parser.add_argument_group('with --copy-labels, as for relabel'), required=False)


def run_pack(args: argparse.Namespace) -> None:
    """Write generated images as a data set that a config trains on (configs/_base_/datasets/generated.py).

    From a relabelled folder: the accepted edits, with their new labels. The decisions in its review.csv count, and
    those of --review, which beat them.

        python tools/generate.py pack work_dirs/relabelled --out data/generated/relabelled

    With the labels of the sources, for comparison (the published setting; wrong wherever the edit changed a defect):

        python tools/generate.py pack --copy-labels --edits data/edits/img_dir --prefix new_ \\
            --sources data/wta/img_dir/train --labels data/wta/ann_dir/train --classes normal attached broken \\
            --out data/generated/copied
    """
    if not args.copy_labels:
        if args.relabelled is None or args.edits is not None:
            raise ValueError('pack takes the folder that relabel wrote, or --copy-labels with --edits; see --help.')
        packed = pack.pack_relabelled(args.relabelled, args.out, _decisions(args))
    elif args.relabelled is not None:
        content = pack.read_relabelled(args.relabelled)
        entries = content['entries']
        if args.only_accepted:
            entries = [entry for entry, *_ in pack.choose(entries, _decisions(args))]
        pairs = [pack.pair_of(e, Path(e['source_label']) if e['source_label'] else None) for e in entries]
        packed = pack.pack_copied(pairs, content['classes'], args.out)
    else:
        if args.edits is None or not args.classes:
            raise ValueError('--copy-labels needs a relabelled folder, or --edits and --classes; see --help.')
        if args.only_accepted:
            raise ValueError('--only-accepted needs the folder that relabel wrote: it holds the verdicts.')
        pairs = find_pairs(args.edits, args.sources, args.labels, args.prefix)
        packed = pack.pack_copied(pairs, args.classes, args.out)
    by_reviewer = sum(image.entry['decided_by'] == 'reviewer' for image in packed.images)
    defective = sum(any(image.entry['defect_pixels'].values()) for image in packed.images)
    print(
        f'written: {len(packed.images)} images in {args.out}, {defective} with a defect, labels {packed.labels}, '
        f'{by_reviewer} decided by a reviewer'
    )


def _decisions(args: argparse.Namespace) -> dict:
    """Return the decisions on the edits of a relabelled folder: of its own table and, before them, of ``--review``."""
    names = {entry['name'] for entry in pack.read_relabelled(args.relabelled)['entries']}
    table = args.relabelled / 'review.csv'
    decisions = read_decisions(table, names) if table.is_file() else {}
    more = read_decisions(args.review, names) if args.review is not None else {}
    return decisions | {k: v for k, v in more.items() if v.accepted is not None or v.corrected is not None}


def add_pack_boxes(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('generated', type=Path, help='set that sample wrote, or a category of anomaly_mvtec of AnoGen')
    add('--sources', type=Path, help='good images that a category of AnoGen was made from (train/good)')
    add('--classes', nargs='+', required=True, help='of the real data, the normal class first')
    ids = 'class of each defect type (default: of the manifest, or of that name)'
    add('--class-ids', nargs='+', default=[], metavar='TYPE=ID', help=ids)
    add('--out', type=Path, required=True, help='folder of the data set; must not exist')


def run_pack_boxes(args: argparse.Namespace) -> None:
    """Write a sampled set as a data set whose labels are its masks, for training with WeakBoxLoss.

    python tools/generate.py pack-boxes generated/few-shot --classes normal attached broken --out data/generated/boxes
    python tools/train.py configs/fast_scnn/fast-scnn_boxes_2k_wta-256.py
    """
    packed = pack.pack_boxes(args.generated, args.classes, args.out, _read_class_ids(args.class_ids), args.sources)
    print(f'written: {len(packed.images)} images in {args.out}, labels are their masks')


def add_compare_words(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add('study', type=Path, help='study file whose arms are generated sets')
    add('--results', type=Path, default=Path('docs/results'), help='folder with records/')
    add('--metrics', nargs='+', default=[], help='those that must not fall; the first one ranks')
    add('--reference', help='arm of the original data (default: that of the study)')
    add('--out', type=Path, help='also write the Markdown to this file')


def run_compare_words(args: argparse.Namespace) -> None:
    """Choose among generated sets: drop each that lowers any metric against the original data, rank the rest.

    Reads the records of a study (tools/study.py) whose arms are the original data and one generated set for each word.

        python tools/study.py configs/studies/wta_words.py --data-root data/wta512
        python tools/generate.py compare-words configs/studies/wta_words.py
    """
    text = compare_words(args.study, args.results, tuple(args.metrics), args.reference)
    if args.out is not None:
        write_text(args.out, text)
    print(text)


def compare_words(study_file: Path, results: Path, metrics: tuple[str, ...] = (), reference: str | None = None) -> str:
    """Return which generated sets of a study are worth training on, as Markdown.

    The rule of the published system: drop every generated set that lowers any metric against the original data, then
    rank the rest. It looks at means and ignores noise, so the result stands beside the comparison with intervals, which
    says what can be told apart at all.

    Args:
        study_file: study whose arms are generated sets; its baseline is the original data.
        results: folder with ``records/``.
        metrics: those that must not fall, the first one ranks; the study's by default.
        reference: arm of the original data instead of the study's baseline.

    Raises:
        ValueError: if the reference or all other arms have no record.
    """
    study = read_study(study_file)
    if reference:
        study = replace(study, baseline=reference)
    comparison = compare_study(study, read_records(results / 'records'), metrics)
    if comparison is None or not comparison.differences:
        raise ValueError(
            f'the arm {study.reference!r} and at least one generated set of {study_file} must have records in '
            f'{results / "records"}; run tools/study.py on it first.'
        )
    lower = [[d for d in found.values() if d.interval.value < 0] for found in comparison.differences.values()]
    dropped, confirmed = sum(map(bool, lower)), sum(any(d.verdict == 'worse' for d in found) for found in lower)
    parts = [
        f'# {study.title or study.name}: which sets to keep\n',
        published_sentences(comparison),
        f'Of the {dropped} sets with a lower mean in some metric, {confirmed} can be told from the original data '
        'beyond the noise of seeds and test images.\n',
        render(comparison, {arm.name: arm.note for arm in study.arms}),
    ]
    return '\n'.join(parts)
