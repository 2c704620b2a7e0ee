"""Generate defects in the masks of clean images, many at once in one process, and record each in a manifest."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from mmdefect.diffusion.blended import BlendSettings, generate, paste_back, to_uint8
from mmdefect.diffusion.failures import explain_memory
from mmdefect.diffusion.images import read_image, read_mask, write_image
from mmdefect.diffusion.inversion_data import image_tensor, mask_tensor
from mmdefect.diffusion.jobs import batches, check_unique, seed_of, share_of
from mmdefect.diffusion.latent_model import LatentModel
from mmdefect.diffusion.manifest import Manifest, Record
from mmdefect.diffusion.mask_sets import MaskEntry
from mmdefect.diffusion.progress import Meter
from mmdefect.diffusion.tokens import TokenBank, token_name
from mmdefect.synthesis.streams import stream_generator


@dataclass(frozen=True)
class SampleJob:
    """One image to generate.

    Attributes:
        id: name in the set.
        image: clean image.
        mask: mask file.
        entry: of the mask.
        text: prompt with the name of the token in it.
        seed: of this image.
    """

    id: str
    photo: str
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
    """Say which images will be generated: for each clean image and type so many masks, for each so many samples.

    A mask that was fitted to an image is used for that image only; of the others each image draws its own.

    Args:
        images: clean images.
        mask_folder: folder of the set of masks.
        masks: its entries.
        prompt: text; ``{token}`` becomes the learned token of the type of the mask, ``{type}`` its name.
        seed: of the set.
        masks_per_image: masks for each image and type.
        samples: images for each of those.
        types: only masks of these types.

    Raises:
        ValueError: if a type has no masks, or nothing is left to do.
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
    for photo in map(Path, images):
        for kind in types or sorted(by_type):
            for entry in _masks_of(photo, by_type[kind], seed, masks_per_image):
                for number in range(samples):
                    name = f'{photo.stem}_{kind.replace(" ", "-")}_{Path(entry.file).stem}_{number}'
                    jobs.append(
                        SampleJob(
                            name,
                            str(photo),
                            str(Path(mask_folder) / entry.file),
                            entry,
                            fill_prompt(prompt, kind),
                            seed_of(seed, name),
                        )
                    )
    if not jobs:
        raise ValueError(
            f'the masks of {mask_folder} must fit the images, but each was drawn for an image that is '
            'not among them; give the images they were drawn for, or draw masks for these.'
        )
    check_unique([job.id for job in jobs])
    return jobs


def fill_prompt(prompt: str, defect_type: str) -> str:
    """Return a prompt for a type; see :func:`plan_samples`."""
    return prompt.replace('{token}', token_name(defect_type)).replace('{type}', defect_type.replace('_', ' '))


def check_prompts(jobs: Sequence[SampleJob], bank: TokenBank | None) -> None:
    """Raise when a prompt has a token that was not learned, or none although tokens were given."""
    known = {} if bank is None else bank.counts
    for job in jobs:
        token = token_name(job.entry.defect_type)
        if token in job.text and token not in known:
            raise ValueError(
                f'the token {token} must have been learned, but the tokens given are '
                f'{sorted(known) or "none"}; name its folder with --tokens, or write a prompt without '
                '{token}.'
            )
        if bank is not None and not bank.names_in(job.text):
            raise ValueError(f'the prompt must hold {{token}} where tokens are given, got {job.text!r}.')


def sample(
    model: LatentModel,
    jobs: Sequence[SampleJob],
    out: str | os.PathLike,
    settings: BlendSettings,
    bank: TokenBank | None = None,
    negative: str = '',
    batch_size: int = 4,
    size_hw: tuple[int, int] | None = None,
    facts: dict | None = None,
    class_ids: dict[str, int] | None = None,
    process: tuple[int, int] = (0, 1),
) -> int:
    """Generate all images that are not recorded yet.

    Args:
        model: pipeline.
        jobs: all images of the set.
        out: folder of the set.
        settings: how images are generated.
        bank: learned tokens.
        negative: text that guidance leads away from.
        batch_size: images computed at once; changes nothing but speed and memory.
        size_hw: size that is computed; ``None``: that of each image.
        facts: what else the settings of the set should say.
        class_ids: class of each type in label maps.
        process: number of this process and of all.

    Returns:
        Number of images made by this process.

    Raises:
        ValueError: if images, masks or settings do not fit.
        OutOfMemory: with what to change.
    """
    check_prompts(jobs, bank)
    manifest = Manifest(out)
    manifest.start(
        dict(
            facts or {},
            command='sample',
            model=model.name,
            dtype=model.dtype_name,
            negative=negative,
            size_hw=size_hw and list(size_hw),
            **asdict(settings),
        )
    )
    done = manifest.done()
    mine = share_of(jobs, *process)
    todo = [job for job in mine if job.id not in done]
    with Meter('sample', len(mine), len(mine) - len(todo)) as meter:
        for batch in batches(todo, batch_size, lambda job: size_hw or image_size(job.photo)):
            size = size_hw or image_size(batch[0].photo)
            model.check_size(size)
            with explain_memory(len(batch), model.dtype_name, f'generating {len(batch)} images of {size}'):
                made = _generate(model, batch, settings, bank, negative, size)
            for job, photo, mask in made:
                _write(manifest, job, photo, mask, model, negative, class_ids or {})
            meter.advance(len(batch))
    return len(todo)


def image_size(path: str) -> tuple[int, int]:
    """Return height and width of an image file without reading all of it."""
    with Image.open(path) as image:
        return image.height, image.width


def _masks_of(photo: Path, entries: Sequence[MaskEntry], seed: int, count: int) -> list[MaskEntry]:
    own = [e for e in entries if e.source is not None and Path(e.source).name == photo.name]
    if own:
        return own[:count]
    free = [e for e in entries if e.source is None]
    return sorted(free, key=lambda e: seed_of(seed, f'{photo.name}/{e.file}'))[:count]


def _generate(
    model: LatentModel,
    jobs: Sequence[SampleJob],
    settings: BlendSettings,
    bank: TokenBank | None,
    negative: str,
    size_hw: tuple[int, int],
) -> list:
    originals = [read_image(job.photo) for job in jobs]
    masks = [read_mask(job.mask, original.shape[:2]) for job, original in zip(jobs, originals, strict=True)]
    images = torch.stack([image_tensor(original, size_hw) for original in originals])
    small = torch.stack([mask_tensor(mask, size_hw) for mask in masks])
    with torch.no_grad():
        condition = model.encode_text([job.text for job in jobs], bank)
        unconditional = model.encode_unconditional([negative] * len(jobs))
    generators = [stream_generator(job.seed, 'sample') for job in jobs]
    made = to_uint8(generate(model, images, small, condition, unconditional, generators, settings))
    return [
        (job, paste_back(original, photo, mask, settings.seam), mask)
        for job, original, photo, mask in zip(jobs, originals, made, masks, strict=True)
    ]


def _write(
    manifest: Manifest,
    job: SampleJob,
    photo: np.ndarray,
    mask: np.ndarray,
    model: LatentModel,
    negative: str,
    class_ids: dict[str, int],
) -> None:
    image_file, mask_file = f'images/{job.id}.png', f'masks/{job.id}.png'
    write_image(manifest.folder / mask_file, mask)
    write_image(manifest.folder / image_file, photo)
    manifest.append(
        Record(
            id=job.id,
            image=image_file,
            source=job.photo,
            seed=job.seed,
            prompt=job.text,
            model=model.name,
            mask=mask_file,
            mask_kind=job.entry.kind,
            defect_type=job.entry.defect_type,
            class_id=class_ids.get(job.entry.defect_type),
            negative_prompt=negative,
            extra=dict(mask_overlap=job.entry.overlap, mask_donor=job.entry.donor),
        )
    )
