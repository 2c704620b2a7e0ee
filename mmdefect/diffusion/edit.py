"""Edit labelled images by words: one inversion for each image, one generated set for each word."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import cv2
import torch
import torch.nn.functional as F
from torch import Tensor

from mmdefect.diffusion.images import image_size, image_tensor, labels_of, read_image, to_uint8, write_image
from mmdefect.diffusion.inversion import DDIMSteps, NullTextSettings, invert, optimise_null_text
from mmdefect.diffusion.manifest import Manifest, Record, batches, check_unique
from mmdefect.diffusion.model import LatentModel, TextCondition, explain_memory
from mmdefect.diffusion.prompt_edit import EditSettings, controlled, edit_latents, make_editor
from mmdefect.extras import require
from mmdefect.files import write_text
from mmdefect.progress import Progress

#: Words of the published study.
WORDS = ('scratch', 'rust', 'peeling', 'corrosion', 'blistering', 'dent')
#: Normalisation of the images that LPIPS networks were trained with, for values in [-1, 1].
_LPIPS_MEAN, _LPIPS_STD = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
#: Convolutions of VGG-16 before each of the five outputs.
_VGG_SLICES = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))


@dataclass(frozen=True)
class EditPlan:
    """What is edited into what."""

    prompt: str = 'photo of a {word} defect image'  # with `{word}`
    source_word: str = 'crack'  # what the images show
    words: Sequence[str] = WORDS  # what they shall show; each makes a set of its own
    steps: int = 50  # of DDIM, on the way there and back
    size_hw: tuple[int, int] | None = None  # size that is computed; `None`: that of each image
    negative: str = ''  # text that the optimisation of the unconditional text starts from

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
    """What inversion found for a batch of images."""

    noise: Tensor  # `(B, C, h, w)` float32, where denoising starts
    condition: TextCondition  # source text of each image
    empties: list[TextCondition]  # unconditional text of every step


def invert_images(
    model: LatentModel,
    images: Tensor,
    text: str,
    steps: DDIMSteps,
    null_text: NullTextSettings,
    settings: EditSettings,
    negative: str = '',
) -> Inversion:
    """Find noise and unconditional texts that lead back to ``images``, ``(B, 3, H, W)`` float in [0, 1], RGB.

    RLI acts here as it does later in the edit: what is found fits the network that is used. ``text`` says what the
    images show; ``negative`` is the text that optimisation starts from.
    """
    count = len(images)
    with torch.no_grad():
        clean = model.encode_images(images)
        condition, empty = model.encode_text([text] * count), model.encode_unconditional([negative] * count)
    with controlled(model, None, settings.alpha, settings.places):
        trajectory = invert(model, clean, condition, steps)
        empties, _ = optimise_null_text(model, trajectory, condition, empty, steps, null_text)
    return Inversion(trajectory[-1], condition, empties)


@torch.no_grad()
def edit_images(
    model: LatentModel, inversion: Inversion, source: str, target: str, steps: DDIMSteps, settings: EditSettings
) -> tuple[Tensor, Tensor]:
    """Return reconstruction and edit of inverted images, both ``(B, 3, H, W)`` float32 in [0, 1], RGB."""
    noise = inversion.noise
    editor = make_editor(model, source, target, settings, len(steps), tuple(noise.shape[2:]))
    condition = model.encode_text([target] * len(noise))
    same, edited = edit_latents(model, noise, inversion.condition, condition, inversion.empties, steps, editor)
    return model.decode(same), model.decode(edited)


def edit(
    model: LatentModel,
    images: Sequence[str | os.PathLike],
    out: str | os.PathLike,
    plan: EditPlan,
    settings: EditSettings,
    null_text: NullTextSettings,
    batch_size: int = 1,
    labels: str | os.PathLike | None = None,
    lpips: Lpips | None = None,
    process: tuple[int, int] = (0, 1),
    keep_reconstructions: bool = False,
) -> int:
    """Edit image files into one set for each word, below ``out``; returns how many images this process made.

    Args:
        batch_size: images computed at once; too many for the memory raise ``OutOfMemory``.
        labels: folder of the labels of the images, by stem, to be recorded.
        lpips: perceptual distance for the report.
        process: number of this process and of all.
        keep_reconstructions: also write what inversion makes of the image itself.
    """
    require('generation', 'kornia', who='the report of an edit')
    paths = [Path(p) for p in images]
    check_unique([p.stem for p in paths])
    label_of = {} if labels is None else labels_of(paths, labels)
    source, steps = plan.text(plan.source_word), DDIMSteps.of(model, plan.steps)
    for word in plan.words:  # all words are checked before the first hour of work
        make_editor(model, source, plan.text(word), settings, plan.steps, (1, 1))
    described = dict(command='edit', model=model.name, dtype=model.dtype_name, **asdict(plan))
    described.update(edit=asdict(settings), null_text=asdict(null_text))
    described.pop('words')
    sets = {word: Manifest(Path(out) / word.replace(' ', '-')) for word in plan.words}
    for word, manifest in sets.items():
        manifest.start(dict(described, word=word))
    done = {word: manifest.done() for word, manifest in sets.items()}
    mine = paths[process[0] :: process[1]]
    todo = [p for p in mine if any(p.stem not in done[word] for word in plan.words)]
    finished = sum(p.stem in done[word] for p in mine for word in plan.words)
    made = 0
    with Progress(len(mine) * len(plan.words), 'edit', done=finished) as progress:
        for batch in batches(todo, batch_size, lambda p: plan.size_hw or image_size(p)):
            size = plan.size_hw or image_size(batch[0])
            model.check_size(size)
            with explain_memory(len(batch), model, f'editing {len(batch)} images of {size}'):
                originals = torch.stack([image_tensor(read_image(p), size) for p in batch])
                inversion = invert_images(model, originals, source, steps, null_text, settings, plan.negative)
                for word, manifest in sets.items():
                    missing = [(i, p) for i, p in enumerate(batch) if p.stem not in done[word]]
                    if not missing:
                        continue
                    text = plan.text(word)
                    same, edited = edit_images(model, inversion, source, text, steps, settings)
                    scores = score(originals, same.cpu(), edited.cpu(), lpips)
                    texts = dict(source_prompt=source, negative_prompt=plan.negative)
                    for index, path in missing:
                        image_file = f'images/{path.stem}.png'
                        if keep_reconstructions:
                            _write(manifest.folder / f'reconstructions/{path.stem}.png', same[index], path)
                        _write(manifest.folder / image_file, edited[index], path)
                        record = Record(path.stem, image_file, str(path), 0, text, model.name, extra=dict(word=word))
                        label = str(label_of[path.stem]) if label_of else None
                        manifest.append(replace(record, source_label=label, scores=scores[index], **texts))
                        made += 1
                        progress.advance()
    for manifest in sets.values():
        write_report(manifest)
    return made


def _write(place: Path, image: Tensor, original: Path) -> None:
    """Write ``(3, H, W)`` float in [0, 1] at the size of the original file."""
    array, size = to_uint8(image[None])[0], image_size(original)
    if array.shape[:2] != size:
        array = cv2.resize(array, size[::-1], interpolation=cv2.INTER_CUBIC)
    write_image(place, array)


def write_report(manifest: Manifest) -> None:
    """Write ``report.csv``: the scores of every image of a set and their means."""
    records = sorted((r for r in manifest.records() if r.scores), key=lambda r: r.id)
    if not records:
        return
    names = list(records[0].scores)
    text = io.StringIO()
    table = csv.writer(text, lineterminator='\n')
    table.writerow(['image', *names])
    table.writerows([record.id, *(record.scores[name] for name in names)] for record in records)
    table.writerow(['mean', *(round(sum(r.scores[name] for r in records) / len(records), 5) for name in names)])
    write_text(manifest.folder / 'report.csv', text.getvalue())


def score(originals: Tensor, same: Tensor, edited: Tensor, lpips: Lpips | None = None) -> list[dict[str, float]]:
    """Return PSNR, SSIM and, with ``lpips``, LPIPS of reconstructions and edits against the originals."""
    measures = dict(psnr=psnr, ssim=ssim, **({} if lpips is None else dict(lpips=lpips)))
    columns = {
        f'{name}_{kind}': measure(originals, images).tolist()
        for name, measure in measures.items()
        for kind, images in (('reconstruction', same), ('edit', edited))
    }
    return [{name: round(values[i], 5) for name, values in columns.items()} for i in range(len(originals))]


def psnr(first: Tensor, second: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio in dB, ``(B,)``, of ``(B, C, H, W)`` in [0, 1]; infinite if equal."""
    from kornia.metrics import psnr as psnr_of_pair

    return torch.stack([psnr_of_pair(one, two, 1.0) for one, two in zip(first, second, strict=True)])


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Return the structural similarity, ``(B,)``, of ``(B, C, H, W)`` float in [0, 1], at least 11 pixels each way.

    Wang et al., IEEE Trans. Image Processing 13 (2004): Gaussian window of 11 pixels, sigma 1.5, K = 0.01 and 0.03;
    mean over channels and the windows that lie within the image.
    """
    from kornia.metrics import ssim as ssim_map

    if min(first.shape[-2:]) < 11:
        raise ValueError(f'images must be at least 11 pixels high and wide, got {tuple(first.shape[-2:])}.')
    return ssim_map(first, second, 11, 1.0, padding='valid').mean((1, 2, 3))


class Lpips:
    """Learned perceptual distance on VGG-16 (Zhang et al., CVPR 2018).

    ``path`` holds the state dict of ``lpips.LPIPS(net='vgg')`` of the package ``lpips``, saved with ``torch.save``: the
    network and the learned weights of its layers, which do not come with this package.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        try:
            state = torch.load(path, map_location='cpu', weights_only=True)
            slices = [[f'net.slice{k}.{index}' for index in indices] for k, indices in enumerate(_VGG_SLICES, 1)]
            self.layers = [[(state[f'{n}.weight'], state[f'{n}.bias']) for n in names] for names in slices]
            self.weights = [state[f'lin{number}.model.1.weight'] for number in range(5)]
        except FileNotFoundError as err:
            raise ValueError(
                f"{path} must hold `lpips.LPIPS(net='vgg').state_dict()`, but there is no such file; leave LPIPS out."
            ) from err
        except (KeyError, TypeError, RuntimeError, EOFError) as err:
            raise ValueError(
                f"{path} must hold the state dict of `lpips.LPIPS(net='vgg')`, saved with torch.save ({err})."
            ) from err

    @torch.no_grad()
    def __call__(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the distance, ``(B,)``; images are ``(B, 3, H, W)`` float in [0, 1], RGB."""
        mean, std = (torch.tensor(v, device=first.device).view(1, 3, 1, 1) for v in (_LPIPS_MEAN, _LPIPS_STD))
        features = (torch.cat([first, second]).float() * 2 - 1 - mean) / std
        total = torch.zeros(len(first), device=first.device)
        for number, (layers, weight) in enumerate(zip(self.layers, self.weights, strict=True)):
            features = features if number == 0 else F.max_pool2d(features, 2)
            for kernel, bias in layers:
                features = F.relu(F.conv2d(features, kernel.to(features), bias.to(features), padding=1))
            one, two = (features / (features.square().sum(1, keepdim=True).sqrt() + 1e-10)).chunk(2)
            total += F.conv2d((one - two).square(), weight.to(features)).mean((1, 2, 3))
        return total
