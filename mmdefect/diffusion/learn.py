"""Textual inversion: learn the vectors of a token from a few images, with everything else frozen.

Gal et al., "An image is worth one word", 2022, with the loss inside the mask
(:mod:`mmdefect.diffusion.inversion_loss`). A run leaves in its folder::

    token.safetensors     the learned token
    progress.csv          step and loss
    checkpoint.pt         what going on needs; removed at the end
    previews/STEP.png     what the token generates in the masks of the support images
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from numpy import ndarray
from torch import Tensor, nn

from mmdefect.diffusion.blended import BlendSettings
from mmdefect.diffusion.extras import need
from mmdefect.diffusion.failures import explain_memory
from mmdefect.diffusion.images import write_bytes
from mmdefect.diffusion.inversion_data import InversionBatch, SupportImages
from mmdefect.diffusion.inversion_loss import NORMALISATIONS, masked_noise_loss, noise_target, shrink_mask
from mmdefect.diffusion.latent_model import LatentModel
from mmdefect.diffusion.previews import write_preview
from mmdefect.diffusion.progress import Meter
from mmdefect.diffusion.prompts import TEMPLATES, check_templates
from mmdefect.diffusion.tokens import TokenBank, save_tokens, start_vectors, token_name


@dataclass(frozen=True)
class LearnSettings:
    """How a token is learned; the defaults are those of the paper except where they say otherwise.

    Attributes:
        steps: updates.
        batch_size: images of each process in each part of an update.
        accumulate: parts of an update.
        learning_rate: of AdamW; the published code multiplies it by ``batch_size`` and processes (0.02 in all).
        weight_decay: pulls the vectors to zero; the published code has 0.01.
        vectors: of the token.
        init_word: ordinary word whose vectors learning starts from.
        normalise: ``area`` (default) or ``none``, as published.
        flip: mirror images at random.
        size_hw: size that is computed.
        seed: of the draws.
        preview_every: updates between two previews, 0 for none.
        checkpoint_every: updates between two checkpoints.
        templates: sentences with ``{}``.
    """

    steps: int = 6100
    batch_size: int = 4
    accumulate: int = 1
    learning_rate: float = 5e-3
    weight_decay: float = 0.0
    vectors: int = 1
    init_word: str = 'defect'
    normalise: str = 'area'
    flip: bool = True
    size_hw: tuple[int, int] = (256, 256)
    seed: int = 0
    preview_every: int = 500
    checkpoint_every: int = 500
    templates: Sequence[str] = TEMPLATES

    def __post_init__(self) -> None:
        for name in ('steps', 'batch_size', 'accumulate', 'vectors', 'checkpoint_every'):
            if getattr(self, name) < 1:
                raise ValueError(f'`{name}` must be at least 1, got {getattr(self, name)}.')
        if self.learning_rate <= 0 or self.weight_decay < 0:
            raise ValueError(
                f'`learning_rate` must be positive and `weight_decay` at least 0, got '
                f'{self.learning_rate} and {self.weight_decay}.'
            )
        if self.normalise not in NORMALISATIONS:
            raise ValueError(f'`normalise` must be one of {", ".join(NORMALISATIONS)}, got {self.normalise!r}.')
        check_templates(self.templates)


class TokenInversion(nn.Module):
    """The frozen pipeline and the only parameters that learn: the vectors of one token.

    Args:
        model: pipeline.
        token: name of the token.
        start: for each text encoder ``(N, D)`` float32.
        normalise: form of the loss.
    """

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
        noisy, target = noise_target(
            clean, batch.noise.to(device), self._alphas[batch.steps].to(device), model.prediction_type
        )
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
    """Learn the token of a defect type; a run that was stopped goes on from its last checkpoint.

    Args:
        model: pipeline, on the device of this process.
        shots: images ``(H, W, 3)`` uint8 RGB and masks ``(H, W)`` bool.
        defect_type: names the token.
        folder: of this run.
        settings: how.
        accelerator: of accelerate; one is made if ``None``.
        facts: what the file should say beside its token, such as the shots.
        preview: how previews are generated.
        say: prints a line.

    Returns:
        The file of the token.

    Raises:
        ValueError: if the folder holds a run of other settings, or the size cannot be computed.
        OutOfMemory: with what to change.
    """
    folder = Path(folder)
    model.check_size(settings.size_hw)
    if accelerator is None:
        accelerator = need('accelerate').Accelerator(gradient_accumulation_steps=settings.accumulate)
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
    data = SupportImages(shots, settings.size_hw, settings.templates, token, settings.flip)
    with (
        Meter(defect_type, settings.steps, first, 'updates') as meter,
        explain_memory(settings.batch_size, model.dtype_name, f'learning {defect_type} at {settings.size_hw}'),
    ):
        for step in range(first, settings.steps):
            loss = _update(prepared, optimizer, accelerator, model, data, settings, step)
            meter.advance(note=f'loss {loss:.4f}')
            if accelerator.is_main_process:
                _after_update(folder, inversion, optimizer, settings, step + 1, loss, data, model, preview)
    if accelerator.is_main_process:
        bank = inversion.bank()
        bank.facts = dict(described, step=settings.steps)
        save_tokens(done, bank, model.kind)
        (folder / 'checkpoint.pt').unlink(missing_ok=True)
    accelerator.wait_for_everyone()
    return done


def _update(
    prepared: nn.Module,
    optimizer,
    accelerator,
    model: LatentModel,
    data: SupportImages,
    settings: LearnSettings,
    step: int,
) -> float:
    """Make one update from ``accumulate`` batches of every process; returns the mean loss of this process."""
    height, width = settings.size_hw
    shape = (model.latent_channels, height // model.factor, width // model.factor)
    total = 0.0
    for part in range(settings.accumulate):
        number = (step * settings.accumulate + part) * accelerator.num_processes + accelerator.process_index
        batch = data.draw(settings.seed, number, settings.batch_size, shape, len(model.alphas_cumprod()))
        with accelerator.accumulate(prepared):
            loss = prepared(batch)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
        total += float(loss.detach())
    return total / settings.accumulate


def _after_update(
    folder: Path,
    inversion: TokenInversion,
    optimizer,
    settings: LearnSettings,
    step: int,
    loss: float,
    data: SupportImages,
    model: LatentModel,
    preview: BlendSettings | None,
) -> None:
    with open(folder / 'progress.csv', 'a', encoding='utf-8') as file:
        file.write(f'{step},{loss:.6f}\n')
    if step % settings.checkpoint_every == 0 and step < settings.steps:
        _store(folder, inversion, optimizer, step)
    if settings.preview_every and (step % settings.preview_every == 0 or step == settings.steps):
        write_preview(
            folder / 'previews' / f'{step:06d}.png',
            model,
            inversion.bank(),
            data,
            settings.seed,
            preview or BlendSettings(),
        )


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
        known = json.loads(place.read_text(encoding='utf-8'))
        different = [k for k in {**known, **described} if known.get(k) != described.get(k)]
        if different:
            key = different[0]
            raise ValueError(
                f'{folder} must be gone on with in the settings it was begun with, but `{key}` was '
                f'{known.get(key)!r} and is {described.get(key)!r} now; name another folder.'
            )
    accelerator.wait_for_everyone()
    if not held and accelerator.is_main_process:
        write_bytes(place, (json.dumps(described, indent=1) + '\n').encode())
        (folder / 'progress.csv').write_text('step,loss\n', encoding='utf-8')
    accelerator.wait_for_everyone()
    return held


def _store(folder: Path, inversion: TokenInversion, optimizer, step: int) -> None:
    state = dict(step=step, vectors=[v.detach().cpu() for v in inversion.vectors], optimizer=optimizer.state_dict())
    content = io.BytesIO()
    torch.save(state, content)
    write_bytes(folder / 'checkpoint.pt', content.getvalue())


def _restore(folder: Path, inversion: TokenInversion, optimizer, is_main: bool) -> int:
    """Load the last checkpoint; returns the number of updates made."""
    place = folder / 'checkpoint.pt'
    if not place.is_file():
        return 0
    try:
        state = torch.load(place, map_location='cpu', weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError) as err:
        raise ValueError(
            f'{place} must be a checkpoint of `tools/generate.py learn`, but it cannot be read ({err}); '
            'remove it to start anew.'
        ) from err
    with torch.no_grad():
        for own, stored in zip(inversion.vectors, state['vectors'], strict=True):
            own.copy_(stored)
    optimizer.load_state_dict(state['optimizer'])
    if is_main:
        _keep_lines(folder / 'progress.csv', state['step'])
    return state['step']


def _keep_lines(path: Path, step: int) -> None:
    """Drop what was logged after the checkpoint: it is computed again."""
    lines = path.read_text(encoding='utf-8').splitlines()[: step + 1]
    write_bytes(path, ('\n'.join(lines) + '\n').encode())
