"""Generate defects in the masks of good images, and record each in a manifest.

Blended latent diffusion: before each step the latents outside the mask are replaced by the noised latents of the image,
so that the network always sees the true surroundings (Avrahami et al., "Blended latent diffusion", 2023; Gui et al.,
"AnoGen", ECCV 2024). After the last step they are replaced once more, by the latents of the image themselves; the
published code leaves that out. The decoder still changes pixels everywhere, so the image is pasted back outside the
mask: those pixels are identical.
"""

import inspect
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from mmdefect.diffusion.images import (
    bounding_box,
    image_size,
    image_tensor,
    mask_tensor,
    read_image,
    read_mask,
    shrink_mask,
    to_uint8,
    write_image,
)
from mmdefect.diffusion.manifest import Manifest, Record, batches, check_unique, seed_of
from mmdefect.diffusion.masks import MaskEntry
from mmdefect.diffusion.model import LatentModel, TextCondition, explain_memory
from mmdefect.diffusion.tokens import TokenBank, token_name
from mmdefect.progress import Progress
from mmdefect.synthesis.poisson.blends import poisson_blend
from mmdefect.synthesis.streams import stream_generator

SEAMS = ('none', 'poisson')


@dataclass(frozen=True)
class BlendSettings:
    """How images are generated."""

    steps: int = 50  # of the sampler; more are slower. The paper uses 50
    guidance: float = 10.0  # weight of the text; 1 switches guidance off, the paper uses 10
    scheduler: str = 'ddim'  # a key of `model.SCHEDULERS`
    eta: float = 0.0  # noise that DDIM adds, 0 to 1
    seam: str = 'none'  # `none` pastes the pixels as they are, `poisson` continues the surroundings into the mask
    negative: str = ''  # text that guidance leads away from
    size_hw: tuple[int, int] | None = None  # size that is computed; `None`: that of each image

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f'`steps` must be at least 1, got {self.steps}.')
        if self.guidance < 1:
            raise ValueError(f'`guidance` must be at least 1, got {self.guidance}; 1 switches it off.')
        if not 0 <= self.eta <= 1:
            raise ValueError(f'`eta` must be in [0, 1], got {self.eta}.')
        if self.seam not in SEAMS:
            raise ValueError(f'`seam` must be one of {", ".join(SEAMS)}, got {self.seam!r}.')


def sample_noise(generators: Sequence[torch.Generator], shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Return standard normal noise, ``(B, *shape)`` float32, each sample from its own CPU generator."""
    return torch.stack([torch.randn(shape, generator=g) for g in generators]).to(device)


@torch.no_grad()
def sample_blended(
    model: LatentModel, clean: Tensor, mask: Tensor, texts: TextCondition, generators: Sequence, settings: BlendSettings
) -> Tensor:
    """Return latents, ``(B, C, h, w)`` float32, that follow the text inside the mask and are ``clean`` outside.

    Args:
        clean: ``(B, C, h, w)`` float32 latents of the images.
        mask: ``(B, 1, h, w)`` bool.
        texts: ``2 * B`` texts: what guidance leads away from (Ho and Salimans, "Classifier-free diffusion guidance",
            2022), then what it leads to.
        generators: CPU generators, one for each sample, so that batch mates change nothing.
    """
    scheduler = model.make_scheduler(settings.scheduler)
    scheduler.set_timesteps(settings.steps, device=model.device)
    known = inspect.signature(scheduler.step).parameters
    options = dict(generator=list(generators), eta=settings.eta)
    options = {name: value for name, value in options.items() if name in known}
    shape = tuple(clean.shape[1:])
    latents = sample_noise(generators, shape, model.device) * scheduler.init_noise_sigma
    for step in scheduler.timesteps:
        noised = scheduler.add_noise(clean, sample_noise(generators, shape, model.device), step.expand(len(clean)))
        latents = torch.where(mask, latents, noised)
        scaled = scheduler.scale_model_input(latents, step)
        if settings.guidance == 1:
            predicted = model.predict(scaled, step, texts[len(clean) :])
        else:
            plain, guided = model.predict(torch.cat([scaled, scaled]), step, texts).chunk(2)
            predicted = plain + settings.guidance * (guided - plain)
        latents = scheduler.step(predicted, step, latents, **options).prev_sample
    return torch.where(mask, latents, clean)


@torch.no_grad()
def generate(
    model: LatentModel,
    images: Tensor,
    masks: Tensor,
    texts: TextCondition,
    generators: Sequence,
    settings: BlendSettings,
) -> Tensor:
    """Generate inside masks, see :func:`sample_blended`; ``(B, 3, H, W)`` float32 in [0, 1], RGB, not pasted back yet.

    ``images`` are ``(B, 3, H, W)`` float in [0, 1], RGB, of a size that the model can compute; ``masks`` are
    ``(B, 1, H, W)`` bool.
    """
    clean = model.encode_images(images.to(model.device))
    small = shrink_mask(masks.to(model.device), tuple(clean.shape[2:]))
    return model.decode(sample_blended(model, clean, small, texts, generators, settings))


def paste_back(original: ndarray, generated: ndarray, mask: ndarray, seam: str = 'none') -> ndarray:
    """Return the original, ``(H, W, 3)`` uint8 RGB, with generated pixels inside the mask; all others are identical.

    A generated image of another size is brought to that of the original. For ``seam`` see :class:`BlendSettings`.
    """
    if mask.shape != original.shape[:2]:
        raise ValueError(f'`mask` must have the size of the image, {original.shape[:2]}, got {mask.shape}.')
    if generated.shape != original.shape:
        generated = cv2.resize(generated, original.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    if seam == 'poisson' and mask.any():
        top, left, bottom, right = bounding_box(mask)
        area = np.s_[max(0, top - 1) : bottom + 1, max(0, left - 1) : right + 1]
        target, source = (
            torch.from_numpy(p[area].transpose(2, 0, 1).astype(np.float32) / 255) for p in (original, generated)
        )
        blended = poisson_blend(target, source, torch.from_numpy(mask[area].copy())[None])
        generated = generated.copy()
        generated[area] = to_uint8(blended[None])[0]
    return np.where(mask[..., None], generated, original)


@dataclass(frozen=True)
class SampleJob:
    """One image to generate: name in the set, good image, mask file and its entry, prompt with the token, seed."""

    id: str
    image: str
    mask: str
    entry: MaskEntry
    text: str
    seed: int


def plan_samples(
    images: Sequence[str | os.PathLike],
    mask_folder: str | os.PathLike,
    masks: Sequence[MaskEntry],
    prompt: str,
    seed: int,
    masks_per_image: int = 2,
    samples: int = 1,
    types: Sequence[str] | None = None,
) -> list[SampleJob]:
    """Say which images will be generated: ``masks_per_image`` for each good image and type, ``samples`` for each mask.

    A mask that was fitted to an image is used for that image only; of the others each image has its own choice.

    Args:
        masks: entries of the set of masks in ``mask_folder``.
        prompt: text; ``{token}`` becomes the learned token of the type of the mask, ``{type}`` its name.
        seed: of the set.
        types: only masks of these types.
    """
    if masks_per_image < 1 or samples < 1:
        raise ValueError(f'`masks_per_image` and `samples` must be at least 1, got {masks_per_image} and {samples}.')
    by_type: dict[str, list[MaskEntry]] = {}
    for entry in masks:
        by_type.setdefault(entry.defect_type, []).append(entry)
    missing = sorted(set(types or ()) - set(by_type))
    if missing:
        raise ValueError(f'`types` must be types of the masks, {sorted(by_type)}, got {missing[0]!r}.')
    jobs = []
    for image in map(Path, images):
        for kind in types or sorted(by_type):
            text = prompt.replace('{token}', token_name(kind)).replace('{type}', kind.replace('_', ' '))
            for entry in _masks_of(image, by_type[kind], seed, masks_per_image):
                mask = str(Path(mask_folder) / entry.file)
                for number in range(samples):
                    name = f'{image.stem}_{kind.replace(" ", "-")}_{Path(entry.file).stem}_{number}'
                    jobs.append(SampleJob(name, str(image), mask, entry, text, seed_of(seed, name)))
    if not jobs:
        raise ValueError(
            f'the masks of {mask_folder} must fit the images, but each was made for an image that is not among them; '
            'give the images they were made for, or make masks for these.'
        )
    check_unique([job.id for job in jobs])
    return jobs


def _masks_of(image: Path, entries: Sequence[MaskEntry], seed: int, count: int) -> list[MaskEntry]:
    own = [e for e in entries if e.source is not None and Path(e.source).name == image.name]
    free = [e for e in entries if e.source is None]
    return (own or sorted(free, key=lambda e: seed_of(seed, f'{image.name}/{e.file}')))[:count]


def check_prompts(jobs: Sequence[SampleJob], bank: TokenBank | None) -> None:
    """Raise ``ValueError`` when a prompt has a token that was not learned, or none although tokens were given."""
    known = {} if bank is None else bank.counts
    for job in jobs:
        token = token_name(job.entry.defect_type)
        if token in job.text and token not in known:
            raise ValueError(
                f'the token {token} must have been learned, but the tokens given are {sorted(known) or "none"}; '
                'name its folder with --tokens, or write a prompt without {token}.'
            )
        if bank is not None and not bank.names_in(job.text):
            raise ValueError(f'the prompt must hold {{token}} where tokens are given, got {job.text!r}.')


def sample(
    model: LatentModel,
    jobs: Sequence[SampleJob],
    out: str | os.PathLike,
    settings: BlendSettings,
    bank: TokenBank | None = None,
    batch_size: int = 4,
    facts: dict | None = None,
    class_ids: dict[str, int] | None = None,
    process: tuple[int, int] = (0, 1),
) -> int:
    """Generate all images of a set that are not recorded yet; returns how many this process made.

    Args:
        bank: learned tokens.
        batch_size: images computed at once; changes nothing but speed and memory.
        facts: what else the settings of the set should say.
        class_ids: class of each type in label maps.
        process: number of this process and of all.

    Raises:
        ValueError: if images, masks or settings do not fit.
        OutOfMemory: with what to change.
    """
    check_prompts(jobs, bank)
    manifest = Manifest(out)
    described = dict(command='sample', model=model.name, dtype=model.dtype_name, **asdict(settings))
    manifest.start({**(facts or {}), **described})
    done = manifest.done()
    mine = jobs[process[0] :: process[1]]
    todo = [job for job in mine if job.id not in done]
    with Progress(len(mine), 'sample', done=len(mine) - len(todo)) as progress:
        for batch in batches(todo, batch_size, lambda job: settings.size_hw or image_size(job.image)):
            size = settings.size_hw or image_size(batch[0].image)
            model.check_size(size)
            with explain_memory(len(batch), model, f'generating {len(batch)} images of {size}'):
                made = _generate_batch(model, batch, settings, bank, size)
            for job, (image, mask) in zip(batch, made, strict=True):
                entry, image_file, mask_file = job.entry, f'images/{job.id}.png', f'masks/{job.id}.png'
                write_image(manifest.folder / mask_file, mask)
                write_image(manifest.folder / image_file, image)
                record = Record(job.id, image_file, job.image, job.seed, job.text, model.name)
                shown = dict(defect_type=entry.defect_type, class_id=(class_ids or {}).get(entry.defect_type))
                extra = dict(mask_overlap=entry.overlap, mask_donor=entry.donor)
                masked = dict(mask=mask_file, mask_kind=entry.kind, negative_prompt=settings.negative, extra=extra)
                manifest.append(replace(record, **shown, **masked))
            progress.advance(len(batch))
    return len(todo)


def _generate_batch(
    model: LatentModel,
    jobs: Sequence[SampleJob],
    settings: BlendSettings,
    bank: TokenBank | None,
    size: tuple[int, int],
) -> list[tuple[ndarray, ndarray]]:
    """Return the generated image, pasted back, and the mask of each job."""
    originals = [read_image(job.image) for job in jobs]
    masks = [read_mask(job.mask, original.shape[:2]) for job, original in zip(jobs, originals, strict=True)]
    images = torch.stack([image_tensor(original, size) for original in originals])
    small = torch.stack([mask_tensor(mask, size) for mask in masks])
    texts = model.encode_guided([job.text for job in jobs], settings.negative, bank)
    generators = [stream_generator(job.seed, 'sample') for job in jobs]
    made = to_uint8(generate(model, images, small, texts, generators, settings))
    pasted = [paste_back(o, g, m, settings.seam) for o, g, m in zip(originals, made, masks, strict=True)]
    return list(zip(pasted, masks, strict=True))
