"""Null-text inversion: the unconditional text of each step is optimised until guided DDIM goes back to the image.

Mokady et al., CVPR 2023. For SDXL the pooled embedding is optimised together with the tokens. Images of a batch are
independent: each stops when it is close enough, and none can get worse than where it started, because the best text
that was evaluated is kept.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mmdefect.diffusion.ddim import DDIMSteps, as_noise, guided_noise, move
from mmdefect.diffusion.latent_model import LatentModel, TextCondition


@dataclass(frozen=True)
class NullTextSettings:
    """How texts are optimised; the defaults are those of the published code.

    Attributes:
        inner_steps: updates at most for each step of DDIM; 0 leaves the text as it is: plain DDIM inversion.
        learning_rate: of Adam at the first step; it falls with the index ``i`` of the step as ``1 - i / 100``.
        tolerance: mean square error that is close enough at the first step.
        tolerance_growth: added to it with each step.
        guidance: weight of the text on the way back.
    """

    inner_steps: int = 10
    learning_rate: float = 1e-2
    tolerance: float = 1e-5
    tolerance_growth: float = 2e-5
    guidance: float = 5.0

    def __post_init__(self) -> None:
        if self.inner_steps < 0 or self.learning_rate <= 0 or self.tolerance < 0 or self.tolerance_growth < 0:
            raise ValueError(
                '`inner_steps`, `tolerance` and `tolerance_growth` must be at least 0 and `learning_rate` '
                f'positive, got {self.inner_steps}, {self.tolerance}, {self.tolerance_growth} and '
                f'{self.learning_rate}.'
            )
        if self.guidance < 1:
            raise ValueError(f'`guidance` must be at least 1, got {self.guidance}.')


def optimise_null_text(
    model: LatentModel,
    trajectory: list[Tensor],
    condition: TextCondition,
    empty: TextCondition,
    steps: DDIMSteps,
    settings: NullTextSettings,
    tick: Callable[[], None] | None = None,
) -> tuple[list[TextCondition], Tensor]:
    """Optimise the unconditional text of every step.

    Args:
        model: pipeline.
        trajectory: of :func:`~mmdefect.diffusion.ddim.invert`.
        condition: text of each image.
        empty: unconditional text of each image to start from.
        steps: of the run.
        settings: how.
        tick: called after each step.

    Returns:
        The text of every step, from noise to image, and the latents at the end, ``(B, C, h, w)`` float32.
    """
    latents = trajectory[-1]
    texts, current = [], TextCondition(empty.tokens.float(), None if empty.pooled is None else empty.pooled.float())
    for index, time in enumerate(steps.times):
        before, after = steps.alphas[index], steps.alphas[index + 1]
        current = _optimise_step(
            model, latents, trajectory[-2 - index], condition, current, time, (before, after), index, settings
        )
        texts.append(current)
        with torch.no_grad():
            noise = guided_noise(model, latents, time, before, condition, current, settings.guidance)
            latents = move(latents, noise, before, after)
        if tick is not None:
            tick()
    return texts, latents


def _optimise_step(
    model: LatentModel,
    latents: Tensor,
    target: Tensor,
    condition: TextCondition,
    start: TextCondition,
    time: int,
    alphas: tuple[float, float],
    index: int,
    settings: NullTextSettings,
) -> TextCondition:
    rate = settings.learning_rate * (1 - index / 100)
    if settings.inner_steps == 0 or settings.guidance == 1 or rate <= 0:
        return start
    limit = settings.tolerance + settings.tolerance_growth * index
    with torch.no_grad():
        guided = as_noise(model, model.predict(latents, time, condition), latents, alphas[0])
    values = [t.detach().clone().requires_grad_() for t in (start.tokens, start.pooled) if t is not None]
    optimizer = torch.optim.Adam(values, rate)
    best = [v.detach().clone() for v in values]
    best_loss = torch.full((len(latents),), torch.inf, device=latents.device)
    for number in range(settings.inner_steps + 1):
        loss = _reconstruction_error(
            model, latents, target, guided, TextCondition(*values), time, alphas, settings.guidance
        )
        better = loss.detach() < best_loss
        best_loss = torch.where(better, loss.detach(), best_loss)
        for kept, value in zip(best, values, strict=True):
            kept[better] = value.detach()[better]
        active = best_loss >= limit
        if number == settings.inner_steps or not active.any():
            break
        optimizer.zero_grad()
        (loss * active).sum().backward()
        held = [v.detach().clone() for v in values]
        optimizer.step()
        with torch.no_grad():  # Adam goes on by momentum where the gradient is zero
            for value, old in zip(values, held, strict=True):
                value[~active] = old[~active]
    return TextCondition(*best)


def _reconstruction_error(
    model: LatentModel,
    latents: Tensor,
    target: Tensor,
    guided: Tensor,
    empty: TextCondition,
    time: int,
    alphas: tuple[float, float],
    guidance: float,
) -> Tensor:
    """Return the mean square error of the next latents of each image, ``(B,)``."""
    plain = as_noise(model, model.predict(latents, time, empty), latents, alphas[0])
    moved = move(latents, plain + guidance * (guided - plain), *alphas)
    return (moved - target).square().mean((1, 2, 3))
