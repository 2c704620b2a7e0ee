r"""Textual inversion: learn the vectors of a token from a few images, with everything else frozen.

Gal et al., "An image is worth one word", 2022, with the loss inside the mask. With the squared error :math:`e` between
predicted and true noise and the mask :math:`m` on the latent grid, the published form (Gui et al., "AnoGen", ECCV 2024)
is the mean of :math:`m e` over *all* pixels, so that a defect of 0.1 % of the image gets 0.1 % of the gradient. The
area-normalised form divides by the masked pixels of each image instead.

What a step sees is a function of the seed and its number: the batch of step 700 is the same whether the run was
interrupted or not, and each process of a group samples its own. A run leaves in its folder::

    token.safetensors     the learned token
    settings.json         what the run was begun with
    progress.csv          step and loss
    checkpoint.pt         what going on needs; removed at the end
    previews/STEP.png     what the token generates in the masks of the support images
"""

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor, nn

from mmdefect.diffusion.images import image_tensor, mask_tensor, shrink_mask, to_uint8, write_image
from mmdefect.diffusion.manifest import check_same_settings
from mmdefect.diffusion.model import LatentModel, explain_memory
from mmdefect.diffusion.sample import BlendSettings, generate, paste_back
from mmdefect.diffusion.tokens import TokenBank, save_tokens, start_vectors, token_name
from mmdefect.files import replacing, write_json, write_text
from mmdefect.progress import Progress
from mmdefect.synthesis.streams import stream_generator

NORMALISATIONS = ('area', 'none')
#: Sentences for learning, ``{}`` is the place of the token: one that was seen in many sentences learns none of them.
_SENTENCES = (
    'a photo of {}|a close up photo of {}|a sharp photo of {}|a dark photo of {}|a bright photo of {}|'
    'a blurry photo of {}|a cropped photo of {}|a magnified view of {}|a detailed picture of {}|'
    'an inspection image of {}|a microscope image of {}|a grey image of {}|a picture of a part with {}|'
    'a surface that shows {}|a surface with {}|a photo of a product with {}|a faulty part with {}|'
    'a damaged surface with {}|a close view of {} on a surface|one example of {}|a small {}|a large {}|a typical {}|'
    'an unusual {}|{} seen from above|{} under bright light|{} under dim light'
)
TEMPLATES = tuple(_SENTENCES.split('|'))
#: Support images in a preview.
_COLUMNS = 4


@dataclass(frozen=True)
class LearnSettings:
    """How a token is learned; the defaults are those of the paper except where they say otherwise."""

    steps: int = 6100  # updates
    batch_size: int = 4  # images of each process in each part of an update
    accumulate: int = 1  # parts of an update
    learning_rate: float = 5e-3  # of AdamW; the published code multiplies it by batch size and processes: 0.02
    weight_decay: float = 0.0  # pulls the vectors to zero; the published code has 0.01
    vectors: int = 1  # of the token
    init_word: str = 'defect'  # ordinary word whose vectors learning starts from
    normalise: str = 'area'  # `area` (default) or `none`, as published
    flip: bool = True  # mirror images at random
    size_hw: tuple[int, int] = (256, 256)  # size that is computed
    seed: int = 0
    preview_every: int = 500  # updates between two previews, 0 for none
    checkpoint_every: int = 500  # updates between two checkpoints
    templates: Sequence[str] = TEMPLATES  # sentences with `{}`

    def __post_init__(self) -> None:
        for name in ('steps', 'batch_size', 'accumulate', 'vectors', 'checkpoint_every'):
            if getattr(self, name) < 1:
                raise ValueError(f'`{name}` must be at least 1, got {getattr(self, name)}.')
        if self.learning_rate <= 0:
            raise ValueError(f'`learning_rate` must be positive, got {self.learning_rate}.')
        if self.weight_decay < 0:
            raise ValueError(f'`weight_decay` must be at least 0, got {self.weight_decay}.')
        if self.normalise not in NORMALISATIONS:
            raise ValueError(f'`normalise` must be one of {", ".join(NORMALISATIONS)}, got {self.normalise!r}.')
        wrong = [t for t in self.templates if t.count('{}') != 1]
        if wrong or not self.templates:
            raise ValueError(f'each template must hold {{}} once, where the token goes, got {wrong[:1] or "none"}.')


@dataclass(frozen=True)
class InversionBatch:
    """One batch."""

    images: Tensor  # `(B, 3, H, W)` float32 in [0, 1], RGB
    masks: Tensor  # `(B, 1, H, W)` bool
    texts: list[str]  # one for each image
    steps: Tensor  # `(B,)` int64 training steps
    noise: Tensor  # `(B, C, h, w)` float32


class SupportImages:
    """Support images, ``(H, W, 3)`` uint8 RGB with masks ``(H, W)`` bool, in sentences with the token of their type."""

    def __init__(self, shots: Sequence[tuple[ndarray, ndarray]], token: str, settings: LearnSettings) -> None:
        self.images = torch.stack([image_tensor(image, settings.size_hw) for image, _ in shots])
        self.masks = torch.stack([mask_tensor(mask, settings.size_hw) for _, mask in shots])
        self.token, self.settings = token, settings

    def sample(self, number: int, latent_chw: tuple[int, int, int], num_steps: int) -> InversionBatch:
        """Sample a batch; each process and each accumulated part has its own ``number``."""
        settings, count = self.settings, self.settings.batch_size
        generator = stream_generator(settings.seed, 'inversion', number)
        index = torch.randint(len(self.images), (count,), generator=generator)
        images, masks = self.images[index].clone(), self.masks[index].clone()
        flips = torch.rand(count, generator=generator) < 0.5
        if settings.flip:
            images[flips], masks[flips] = images[flips].flip(-1), masks[flips].flip(-1)
        chosen = [int(torch.randint(len(settings.templates), (), generator=generator)) for _ in range(count)]
        texts = [settings.templates[i].replace('{}', self.token) for i in chosen]
        steps = torch.randint(num_steps, (count,), generator=generator)
        return InversionBatch(images, masks, texts, steps, torch.randn(count, *latent_chw, generator=generator))


def masked_noise_loss(predicted: Tensor, target: Tensor, mask: Tensor, normalise: str = 'area') -> Tensor:
    """Return the squared error inside the mask; 0 for an empty mask.

    Args:
        predicted: ``(B, C, h, w)`` float, as ``target``.
        mask: ``(B, 1, h, w)`` bool.
        normalise: ``area``: mean over the masked pixels of each image, then over images; ``none``: mean over all
            pixels, as published.
    """
    expected = (len(target), 1, *target.shape[2:])
    if mask.shape != expected:
        raise ValueError(
            f'`mask` must have the size of the latents, {expected}, got {tuple(mask.shape)}; use shrink_mask.'
        )
    error = (predicted.float() - target.float()).square() * mask
    if normalise == 'none':
        return error.mean()
    area = mask.sum((1, 2, 3)).clamp(min=1) * target.shape[1]
    return (error.sum((1, 2, 3)) / area).mean()


def noise_target(clean: Tensor, noise: Tensor, alpha: Tensor, prediction_type: str) -> tuple[Tensor, Tensor]:
    """Return the noisy latents and what the network should predict for them, for ``(B, C, h, w)`` float latents.

    ``alpha``, ``(B,)``, is the signal power of the training steps; ``noise`` is standard normal.
    """
    signal, spread = alpha.sqrt().view(-1, 1, 1, 1), (1 - alpha).sqrt().view(-1, 1, 1, 1)
    noisy = signal * clean + spread * noise
    return noisy, noise if prediction_type == 'epsilon' else signal * noise - spread * clean


class TokenInversion(nn.Module):
    """The frozen pipeline and the only parameters that learn: the vectors of one token, ``(N, D)`` for each encoder."""

    def __init__(self, model: LatentModel, token: str, start: Sequence[Tensor], normalise: str) -> None:
        super().__init__()
        self.vectors = nn.ParameterList([nn.Parameter(vectors.clone()) for vectors in start])
        self.token, self.normalise = token, normalise
        self._model = (model,)  # in a tuple: its weights are no part of this module
        self._alphas = model.alphas_cumprod()

    def bank(self) -> TokenBank:
        """Return the vectors as a bank."""
        return TokenBank({self.token: len(self.vectors[0])}, list(self.vectors))

    def forward(self, batch: InversionBatch) -> Tensor:
        """Return the loss of a batch."""
        model = self._model[0]
        device = model.device
        with torch.no_grad():
            clean = model.encode_images(batch.images)
        mask = shrink_mask(batch.masks.to(device), tuple(clean.shape[2:]))
        alphas = self._alphas[batch.steps].to(device)
        noisy, target = noise_target(clean, batch.noise.to(device), alphas, model.prediction_type)
        condition = model.encode_text(batch.texts, self.bank())
        predicted = model.predict(noisy, batch.steps.to(device), condition)
        return masked_noise_loss(predicted, target, mask, self.normalise)


def learn_token(
    model: LatentModel,
    shots: Sequence[tuple[ndarray, ndarray]],
    defect_type: str,
    folder: str | os.PathLike,
    settings: LearnSettings,
    accelerator=None,
    facts: dict | None = None,
    preview: BlendSettings | None = None,
    say: Callable[[str], None] = print,
) -> Path:
    """Learn the token of a defect type and return its file; a run that was stopped goes on from its last checkpoint.

    Args:
        model: pipeline, on the device of this process.
        shots: images ``(H, W, 3)`` uint8 RGB and masks ``(H, W)`` bool.
        folder: of this run.
        accelerator: of accelerate; one is made if ``None``.
        facts: what the file should say beside its token, such as the shots.
        preview: how previews are generated.
        say: prints a line.

    Raises:
        ValueError: if the folder holds a run of other settings, or the size cannot be computed.
        OutOfMemory: with what to change.
    """
    folder = Path(folder)
    model.check_size(settings.size_hw)
    if accelerator is None:
        from accelerate import Accelerator

        accelerator = Accelerator(gradient_accumulation_steps=settings.accumulate)
    done = folder / 'token.safetensors'
    described = _describe(model, defect_type, settings, accelerator.num_processes, facts)
    if _same_run(folder, described, accelerator) and done.is_file():
        say(f'{defect_type}: learned already, {done}')
        return done
    token = token_name(defect_type)
    start = start_vectors(model, settings.init_word, settings.vectors)
    inversion = TokenInversion(model, token, start, settings.normalise)
    optimizer = torch.optim.AdamW(inversion.parameters(), settings.learning_rate, weight_decay=settings.weight_decay)
    first = _restore(folder, inversion, optimizer, accelerator.is_main_process)
    inversion.to(accelerator.device)
    prepared, optimizer = accelerator.prepare(inversion, optimizer)
    data = SupportImages(shots, token, settings)
    what = f'learning {defect_type} at {settings.size_hw}'
    with (
        Progress(settings.steps, defect_type, 'updates', first) as progress,
        explain_memory(settings.batch_size, model, what),
    ):
        for step in range(first, settings.steps):
            loss = _update(prepared, optimizer, accelerator, model, data, step)
            progress.advance(note=f'loss {loss:.4f}')
            if not accelerator.is_main_process:
                continue
            made = step + 1
            with open(folder / 'progress.csv', 'a', encoding='utf-8') as file:
                file.write(f'{made},{loss:.6f}\n')
            if made % settings.checkpoint_every == 0 and made < settings.steps:
                _store(folder, inversion, optimizer, made)
            if settings.preview_every and (made % settings.preview_every == 0 or made == settings.steps):
                place = folder / 'previews' / f'{made:06d}.png'
                write_preview(place, model, inversion.bank(), data, preview or BlendSettings())
    if accelerator.is_main_process:
        bank = inversion.bank()
        bank.facts = dict(described, step=settings.steps)
        save_tokens(done, bank, model.kind)
        (folder / 'checkpoint.pt').unlink(missing_ok=True)
    accelerator.wait_for_everyone()
    return done


def _update(prepared: nn.Module, optimizer, accelerator, model: LatentModel, data: SupportImages, step: int) -> float:
    """Make one update from ``accumulate`` batches of every process; returns the mean loss of this process."""
    parts = data.settings.accumulate
    shape = model.latent_shape(data.settings.size_hw)
    total = 0.0
    for part in range(parts):
        number = (step * parts + part) * accelerator.num_processes + accelerator.process_index
        batch = data.sample(number, shape, len(model.alphas_cumprod()))
        with accelerator.accumulate(prepared):
            loss = prepared(batch)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        total += float(loss.detach())
    return total / parts


def write_preview(
    path: Path, model: LatentModel, bank: TokenBank, data: SupportImages, settings: BlendSettings
) -> None:
    """Write an image: above support images, below them what the token of ``data`` generates in their masks.

    The noise is the same at every step, so that previews can be compared.
    """
    images, masks = data.images[:_COLUMNS], data.masks[:_COLUMNS]
    generators = [stream_generator(data.settings.seed, 'preview', number) for number in range(len(images))]
    texts = model.encode_guided([f'a photo of {data.token}'] * len(images), bank=bank)
    made = to_uint8(generate(model, images, masks, texts, generators, settings))
    originals = to_uint8(images)
    pasted = [paste_back(o, m, mask[0].numpy()) for o, m, mask in zip(originals, made, masks, strict=True)]
    write_image(path, np.concatenate([np.concatenate(list(originals), 1), np.concatenate(pasted, 1)]))


def _describe(
    model: LatentModel, defect_type: str, settings: LearnSettings, processes: int, facts: dict | None
) -> dict:
    """Return what makes two runs the same, as JSON values."""
    body = dict(facts or {}, defect_type=defect_type, model=model.name, processes=processes, **asdict(settings))
    for name in ('preview_every', 'checkpoint_every'):
        body.pop(name)
    return json.loads(json.dumps(body))


def _same_run(folder: Path, described: dict, accelerator) -> bool:
    """Store or compare the settings of a run; returns whether the folder held one."""
    place = folder / 'settings.json'
    held = place.is_file()
    if held:
        check_same_settings(folder, json.loads(place.read_text(encoding='utf-8')), described)
    accelerator.wait_for_everyone()
    if not held and accelerator.is_main_process:
        write_json(place, described)
        (folder / 'progress.csv').write_text('step,loss\n', encoding='utf-8')
    accelerator.wait_for_everyone()
    return held


def _store(folder: Path, inversion: TokenInversion, optimizer, step: int) -> None:
    vectors = [v.detach().cpu() for v in inversion.vectors]
    with replacing(folder / 'checkpoint.pt') as temporary:
        torch.save(dict(step=step, vectors=vectors, optimizer=optimizer.state_dict()), temporary)


def _restore(folder: Path, inversion: TokenInversion, optimizer, is_main: bool) -> int:
    """Load the last checkpoint; returns the number of updates made."""
    place, log = folder / 'checkpoint.pt', folder / 'progress.csv'
    if not place.is_file():
        return 0
    try:
        state = torch.load(place, map_location='cpu', weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError) as err:
        raise ValueError(
            f'{place} must be a checkpoint of `learn`, but it cannot be read ({err}); remove it to start anew.'
        ) from err
    with torch.no_grad():
        for own, stored in zip(inversion.vectors, state['vectors'], strict=True):
            own.copy_(stored)
    optimizer.load_state_dict(state['optimizer'])
    if is_main:  # what was logged after the checkpoint is computed again
        write_text(log, '\n'.join(log.read_text(encoding='utf-8').splitlines()[: state['step'] + 1]) + '\n')
    return state['step']
