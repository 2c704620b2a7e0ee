"""Prompt-to-prompt: change a word of the text and keep the image (Hertz et al., 2022).

Source and edited image are denoised side by side. For the first part of the steps the edited one takes the attention
maps of the source, token by token; words can be given more weight; where neither the old nor the new words attend, the
latents of the source are kept (local blend).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdefect.diffusion.attention import AttentionSite, check_rli, controlled, resize_map, square_side
from mmdefect.diffusion.ddim import DDIMSteps, guided_noise, move
from mmdefect.diffusion.latent_model import LatentModel, TextCondition
from mmdefect.diffusion.word_alignment import Alignment, align, word_tokens


@dataclass(frozen=True)
class EditSettings:
    """How an image is edited.

    Attributes:
        mode: ``replace``, ``refine`` or ``auto``, see :func:`~mmdefect.diffusion.word_alignment.align`.
        cross_replace: share of the steps in which the maps to the text are taken from the source. Published: 1.0.
        self_replace: the same for the maps within the image. Published: 0.8 to 0.3.
        self_pixels: only maps of at most so many pixels are taken.
        weight: factor on the attention to the new words; published 2.
        local_blend: whether the source is kept where the words do not attend.
        blend_threshold: attention, relative to its maximum, above which a pixel may change.
        blend_start: share of the steps before the blend sets in.
        blend_factor: side of the latents over side of the maps that are looked at; the published maps are 32 x 32 for
            latents of 64 x 64.
        guidance: weight of the text.
        alpha: of RLI.
        places: where RLI acts.
    """

    mode: str = 'replace'
    cross_replace: float = 1.0
    self_replace: float = 0.8
    self_pixels: int = 1024
    weight: float = 2.0
    local_blend: bool = True
    blend_threshold: float = 0.3
    blend_start: float = 0.2
    blend_factor: int = 2
    guidance: float = 5.0
    alpha: float = 0.1
    places: Sequence[str] = field(default=('up',))

    def __post_init__(self) -> None:
        for name in ('cross_replace', 'self_replace', 'blend_threshold', 'blend_start'):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f'`{name}` must be in [0, 1], got {getattr(self, name)}; it is a share.')
        if self.weight < 0 or self.guidance < 1 or self.blend_factor < 1 or self.self_pixels < 0:
            raise ValueError(
                '`weight` and `self_pixels` must be at least 0, `guidance` and `blend_factor` at least 1, '
                f'got {self.weight}, {self.self_pixels}, {self.guidance} and {self.blend_factor}.'
            )
        check_rli(self.alpha, self.places)


class PromptEditor:
    """Edits the attention maps of a pass over ``[empty source, empty edited, source, edited]``, ``B`` images each.

    Args:
        alignment: of the texts.
        weights: ``(77,)`` float factors on the attention of the edited image to its tokens.
        settings: how.
        steps: of the run.
        latent_hw: height and width of the latents.
    """

    def __init__(
        self, alignment: Alignment, weights: Tensor, settings: EditSettings, steps: int, latent_hw: tuple[int, int]
    ) -> None:
        self.alignment, self.weights, self.settings = alignment, weights, settings
        self.steps, self.latent_hw = steps, latent_hw
        self.step = 0
        self._attended: Tensor | None = None
        self._seen_factors: set[int] = set()

    def wants(self, site: AttentionSite, pixels: int) -> bool:
        """All maps to the text, and the small ones within the image while they are taken over."""
        if site.is_cross:
            return True
        return pixels <= self.settings.self_pixels and self.step < self.settings.self_replace * self.steps

    def edit(self, maps: Tensor, site: AttentionSite) -> Tensor:
        """Give the edited images the maps of their sources."""
        groups = maps.unflatten(0, (4, -1))
        source, edited = groups[2], groups[3]
        if site.is_cross:
            new = self._edit_cross(source, edited)
            self._collect(source, new)
        else:
            new = source
        return torch.cat([groups[0], groups[1], source, new])

    def _edit_cross(self, source: Tensor, edited: Tensor) -> Tensor:
        if self.step < self.settings.cross_replace * self.steps:
            alignment = self.alignment
            moved = source[..., alignment.source.to(source.device)]
            edited = torch.where(alignment.carried.to(source.device), moved, edited)
        return edited * self.weights.to(edited)

    def _collect(self, source: Tensor, edited: Tensor) -> None:
        """Sum the attention to the changed words, ``(2, B, pixels)``, over layers and steps."""
        if not self.settings.local_blend:
            return
        height, width = square_side(source.shape[2], self.latent_hw)
        self._seen_factors.add(self.latent_hw[0] // height)
        if height * self.settings.blend_factor != self.latent_hw[0]:
            return
        nothing = source.new_zeros(source.shape[0], source.shape[2])
        both = torch.stack(
            [
                maps[..., words].mean((1, 3)) if words.any() else nothing
                for maps, words in ((source, self.alignment.changed_source), (edited, self.alignment.changed_target))
            ]
        )
        self._attended = both if self._attended is None else self._attended + both

    def after_step(self, latents: Tensor) -> Tensor:
        """Keep the source where the words do not attend; ``(2 * B, C, h, w)``, sources first. Counts the step."""
        self.step += 1
        if not self.settings.local_blend or self.step <= self.settings.blend_start * self.steps:
            return latents
        if self._attended is None:
            raise ValueError(
                f'`blend_factor` must be a scale at which the network attends to the text, got '
                f'{self.settings.blend_factor}; it does so at {sorted(self._seen_factors)}.'
            )
        source, edited = latents.chunk(2)
        return torch.cat([source, torch.where(self.change_mask(), edited, source)])

    def change_mask(self) -> Tensor:
        """Return where images may change, ``(B, 1, h, w)`` bool; nothing changes where no word does."""
        factor = self.settings.blend_factor
        small = self._attended.unflatten(-1, (self.latent_hw[0] // factor, self.latent_hw[1] // factor))
        maps = F.max_pool2d(small.flatten(0, 1)[:, None], 3, stride=1, padding=1)
        maps = resize_map(maps, self.latent_hw)
        high = maps.amax((2, 3), keepdim=True)
        found = (maps > self.settings.blend_threshold * high) & (high > 0)
        return found.unflatten(0, small.shape[:2]).any(0)


def make_editor(
    model: LatentModel, source: str, target: str, settings: EditSettings, steps: int, latent_hw: tuple[int, int]
) -> PromptEditor:
    """Return the editor of one pair of texts.

    Raises:
        ValueError: if the texts cannot be aligned.
    """
    alignment = align(model, source, target, settings.mode)
    weights = torch.ones(len(alignment.source))
    old = source.split()
    new = [word for word in target.split() if word not in old]
    if new and settings.weight != 1:
        weights[word_tokens(model, target, new)] = settings.weight
    return PromptEditor(alignment, weights, settings, steps, latent_hw)


@torch.no_grad()
def edit_latents(
    model: LatentModel,
    start: Tensor,
    condition: TextCondition,
    target: TextCondition,
    empties: Sequence[TextCondition],
    steps: DDIMSteps,
    editor: PromptEditor,
    tick: Callable[[], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Denoise source and edited images side by side.

    Args:
        model: pipeline.
        start: ``(B, C, h, w)`` float32 noise that inversion found.
        condition: source text of each image.
        target: edited text of each image.
        empties: unconditional text of every step, see :mod:`~mmdefect.diffusion.null_text`.
        steps: of the run.
        editor: of the attention maps.
        tick: called after each step.

    Returns:
        Latents of the reconstruction and of the edit, both like ``start``.
    """
    settings = editor.settings
    latents = torch.cat([start, start])
    texts = TextCondition.cat([condition, target])
    with controlled(model, editor, settings.alpha, settings.places):
        for index, time in enumerate(steps.times):
            before, after = steps.alphas[index], steps.alphas[index + 1]
            empty = TextCondition.cat([empties[index], empties[index]])
            noise = guided_noise(model, latents, time, before, texts, empty, settings.guidance)
            latents = editor.after_step(move(latents, noise, before, after))
            if tick is not None:
                tick()
    return latents.chunk(2)
