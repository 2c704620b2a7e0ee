"""Edit labelled images by words: one inversion for each image, one generated set for each word."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import torch
from torch import Tensor

from mmdefect.diffusion.attention import controlled
from mmdefect.diffusion.blended import to_uint8
from mmdefect.diffusion.ddim import DDIMSteps, invert
from mmdefect.diffusion.failures import explain_memory
from mmdefect.diffusion.images import read_image, write_bytes, write_image
from mmdefect.diffusion.inversion_data import image_tensor
from mmdefect.diffusion.jobs import batches, check_unique, share_of
from mmdefect.diffusion.latent_model import LatentModel, TextCondition
from mmdefect.diffusion.manifest import Manifest, Record
from mmdefect.diffusion.null_text import NullTextSettings, optimise_null_text
from mmdefect.diffusion.progress import Meter
from mmdefect.diffusion.prompt_edit import EditSettings, edit_latents, make_editor
from mmdefect.diffusion.sample import image_size
from mmdefect.diffusion.similarity import Lpips, psnr, ssim

#: Words of the published study.
WORDS = ('scratch', 'rust', 'peeling', 'corrosion', 'blistering', 'dent')


@dataclass(frozen=True)
class EditPlan:
    """What is edited into what.

    Attributes:
        prompt: text with ``{word}``.
        source_word: what the images show.
        words: what they shall show; each makes a set of its own.
        steps: of DDIM, on the way there and back.
        size_hw: size that is computed; ``None``: that of each image.
    """

    prompt: str = 'photo of a {word} defect image'
    source_word: str = 'crack'
    words: Sequence[str] = WORDS
    steps: int = 50
    size_hw: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.prompt.count('{word}') != 1:
            raise ValueError(f'`prompt` must hold {{word}} once, got {self.prompt!r}.')
        if not self.words or len(set(self.words)) != len(self.words):
            raise ValueError(f'`words` must be different words, at least one, got {list(self.words)}.')

    def text(self, word: str) -> str:
        """Return the text with a word."""
        return self.prompt.replace('{word}', word)


@dataclass(frozen=True)
class Inversion:
    """What inversion found for a batch of images.

    Attributes:
        noise: ``(B, C, h, w)`` float32, where denoising starts.
        condition: source text of each image.
        empties: unconditional text of every step.
    """

    noise: Tensor
    condition: TextCondition
    empties: list[TextCondition]


def invert_images(
    model: LatentModel,
    images: Tensor,
    text: str,
    steps: DDIMSteps,
    null_text: NullTextSettings,
    settings: EditSettings,
    negative: str = '',
    tick: Callable[[], None] | None = None,
) -> Inversion:
    """Find noise and unconditional texts that lead back to images.

    RLI acts here as it does later in the edit: what is found fits the network that is used.

    Args:
        model: pipeline.
        images: ``(B, 3, H, W)`` float in [0, 1], RGB.
        text: what they show.
        steps: of DDIM.
        null_text: how texts are optimised.
        settings: RLI of the edit.
        negative: text that optimisation starts from.
        tick: called after each step, twice for each step of DDIM.
    """
    count = len(images)
    with torch.no_grad():
        clean = model.encode_images(images)
        condition, empty = model.encode_text([text] * count), model.encode_unconditional([negative] * count)
    with controlled(model, None, settings.alpha, settings.places):
        trajectory = invert(model, clean, condition, steps, tick)
        empties, _ = optimise_null_text(model, trajectory, condition, empty, steps, null_text, tick)
    return Inversion(trajectory[-1], condition, empties)


@torch.no_grad()
def edit_images(
    model: LatentModel,
    inversion: Inversion,
    source: str,
    target: str,
    steps: DDIMSteps,
    settings: EditSettings,
    tick: Callable[[], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return reconstruction and edit of inverted images, both ``(B, 3, H, W)`` float32 in [0, 1], RGB."""
    editor = make_editor(model, source, target, settings, len(steps), tuple(inversion.noise.shape[2:]))
    condition = model.encode_text([target] * len(inversion.noise))
    same, edited = edit_latents(
        model, inversion.noise, inversion.condition, condition, inversion.empties, steps, editor, tick
    )
    return model.decode(same), model.decode(edited)


def edit(
    model: LatentModel,
    images: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    plan: EditPlan,
    settings: EditSettings,
    null_text: NullTextSettings | None = None,
    negative: str = '',
    batch_size: int = 1,
    labels: str | os.PathLike | None = None,
    lpips: Lpips | None = None,
    process: tuple[int, int] = (0, 1),
    keep_reconstructions: bool = False,
) -> int:
    """Edit images into one set for each word, below ``out``.

    Args:
        model: pipeline.
        images: files.
        out: folder; the sets get the names of the words.
        plan: what is edited into what.
        settings: how.
        null_text: how texts are optimised.
        negative: text that optimisation starts from.
        batch_size: images computed at once.
        labels: folder of the labels of the images, by stem, to be recorded.
        lpips: perceptual distance for the report.
        process: number of this process and of all.
        keep_reconstructions: also write what inversion makes of the image itself.

    Returns:
        Number of images made by this process.

    Raises:
        ValueError: if words, images or settings do not fit.
        OutOfMemory: with what to change.
    """
    null_text = null_text or NullTextSettings(guidance=settings.guidance)
    paths = [Path(p) for p in images]
    check_unique([p.stem for p in paths])
    found = _find_labels(paths, labels)
    steps = DDIMSteps.of(model, plan.steps)
    for word in plan.words:  # all words are checked before the first hour of work
        make_editor(model, plan.text(plan.source_word), plan.text(word), settings, plan.steps, (1, 1))
    sets = {word: Manifest(Path(out) / word.replace(' ', '-')) for word in plan.words}
    for word, manifest in sets.items():
        manifest.start(_describe(model, plan, word, settings, null_text, negative))
    done = {word: manifest.done() for word, manifest in sets.items()}
    mine = share_of(paths, *process)
    todo = [p for p in mine if any(p.stem not in done[word] for word in plan.words)]
    made = 0
    with Meter('edit', len(mine) * len(plan.words), sum(p.stem in done[w] for p in mine for w in plan.words)) as meter:
        for batch in batches(todo, batch_size, lambda p: plan.size_hw or image_size(str(p))):
            size = plan.size_hw or image_size(str(batch[0]))
            model.check_size(size)
            with explain_memory(len(batch), model.dtype_name, f'editing {len(batch)} images of {size}'):
                originals = torch.stack([image_tensor(read_image(p), size) for p in batch])
                inversion = invert_images(
                    model, originals, plan.text(plan.source_word), steps, null_text, settings, negative
                )
                for word, manifest in sets.items():
                    if all(p.stem in done[word] for p in batch):
                        continue
                    same, edited = edit_images(
                        model, inversion, plan.text(plan.source_word), plan.text(word), steps, settings
                    )
                    scores = score(originals, same.cpu(), edited.cpu(), lpips)
                    for number, path in enumerate(batch):
                        if path.stem in done[word]:
                            continue
                        _write(
                            manifest,
                            path,
                            word,
                            edited[number],
                            same[number] if keep_reconstructions else None,
                            scores[number],
                            plan,
                            model,
                            negative,
                            found.get(path.stem),
                        )
                        made += 1
                        meter.advance()
    for manifest in sets.values():
        write_report(manifest)
    return made


def score(originals: Tensor, same: Tensor, edited: Tensor, lpips: Lpips | None = None) -> list[dict[str, float]]:
    """Return PSNR, SSIM and, with ``lpips``, LPIPS of reconstructions and edits against the originals."""
    measures = dict(psnr=psnr, ssim=ssim, **({} if lpips is None else dict(lpips=lpips)))
    columns = {
        f'{name}_{kind}': measure(originals, images).tolist()
        for name, measure in measures.items()
        for kind, images in (('reconstruction', same), ('edit', edited))
    }
    return [{name: round(values[i], 5) for name, values in columns.items()} for i in range(len(originals))]


def write_report(manifest: Manifest) -> None:
    """Write ``report.csv``: the scores of every image of a set and their means."""
    records = [r for r in manifest.records() if r.scores]
    if not records:
        return
    names = list(records[0].scores)
    text = io.StringIO()
    table = csv.writer(text, lineterminator='\n')
    table.writerow(['image', *names])
    for record in sorted(records, key=lambda r: r.id):
        table.writerow([record.id, *(record.scores[name] for name in names)])
    table.writerow(['mean', *(round(sum(r.scores[name] for r in records) / len(records), 5) for name in names)])
    write_bytes(manifest.folder / 'report.csv', text.getvalue().encode())


def _describe(
    model: LatentModel, plan: EditPlan, word: str, settings: EditSettings, null_text: NullTextSettings, negative: str
) -> dict:
    return dict(
        command='edit',
        model=model.name,
        dtype=model.dtype_name,
        prompt=plan.prompt,
        word=word,
        source_word=plan.source_word,
        steps=plan.steps,
        size_hw=plan.size_hw and list(plan.size_hw),
        negative=negative,
        edit=asdict(settings),
        null_text=asdict(null_text),
    )


def _find_labels(paths: Sequence[Path], labels: str | os.PathLike | None) -> dict[str, str]:
    """Return the label file of each image by stem."""
    if labels is None:
        return {}
    files = {p.stem: str(p) for p in sorted(Path(labels).glob('*')) if p.is_file()}
    missing = [p for p in paths if p.stem not in files]
    if missing:
        raise ValueError(
            f'`labels` must hold the label of every image, but {labels} has none for {missing[0]}; name '
            'the folder of their labels, or leave it out.'
        )
    return {p.stem: files[p.stem] for p in paths}


def _write(
    manifest: Manifest,
    path: Path,
    word: str,
    edited: Tensor,
    same: Tensor | None,
    scores: dict[str, float],
    plan: EditPlan,
    model: LatentModel,
    negative: str,
    label: str | None,
) -> None:
    size = image_size(str(path))

    def save(place: str, photo: Tensor) -> None:
        array = to_uint8(photo[None])[0]
        if array.shape[:2] != size:
            array = cv2.resize(array, size[::-1], interpolation=cv2.INTER_CUBIC)
        write_image(manifest.folder / place, array)

    if same is not None:
        save(f'reconstructions/{path.stem}.png', same)
    save(f'images/{path.stem}.png', edited)
    manifest.append(
        Record(
            id=path.stem,
            image=f'images/{path.stem}.png',
            source=str(path),
            seed=0,
            prompt=plan.text(word),
            model=model.name,
            source_label=label,
            source_prompt=plan.text(plan.source_word),
            negative_prompt=negative,
            scores=scores,
            extra=dict(word=word),
        )
    )
