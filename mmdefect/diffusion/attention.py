r"""Reach into the attention of a network: read and change attention maps, and mix self-attention with its input (RLI).

Residual linear interpolation replaces the output of self-attention by :math:`(1 - \alpha)\,\mathrm{Attn}(x) + \alpha x`
with :math:`x` its input; in the published generator :math:`\alpha = 0.1` in the up blocks. :math:`\alpha = 0` is the
network as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdefect.diffusion.latent_model import LatentModel

PLACES = ('down', 'mid', 'up')


@dataclass(frozen=True)
class AttentionSite:
    """One attention layer.

    Attributes:
        name: of the layer in the network.
        place: ``down``, ``mid`` or ``up``.
        is_cross: whether it attends to the text.
    """

    name: str
    place: str
    is_cross: bool


class MapEditor(Protocol):
    """Reads or changes attention maps."""

    def wants(self, site: AttentionSite, pixels: int) -> bool:
        """Whether the maps of this layer must be computed explicitly."""

    def edit(self, maps: Tensor, site: AttentionSite) -> Tensor:
        """Return the maps to use, ``(B, heads, pixels, keys)``, rows summing to 1 unless words are reweighted."""


class ControlledAttention:
    """Attention processor of diffusers that lets an editor see the maps and interpolates self-attention.

    Args:
        site: of the layer.
        editor: ``None`` changes no map.
        alpha: of RLI, for self-attention; 0 switches it off.
    """

    def __init__(self, site: AttentionSite, editor: MapEditor | None, alpha: float) -> None:
        self.site, self.editor, self.alpha = site, editor, 0.0 if site.is_cross else alpha

    def __call__(
        self,
        attn,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        **unused,
    ) -> Tensor:
        """Attend: ``(B, N, D)`` float to the text ``(B, L, E)``, or to itself."""
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            _split_heads(layer(x), attn.heads)
            for layer, x in ((attn.to_q, hidden_states), (attn.to_k, source), (attn.to_v, source))
        )
        if self.editor is not None and self.editor.wants(self.site, hidden_states.shape[1]):
            scores = (query @ key.transpose(-1, -2)).float() * attn.scale
            maps = self.editor.edit(scores.softmax(-1), self.site).to(value.dtype)
            attended = maps @ value
        else:
            attended = F.scaled_dot_product_attention(query, key, value, scale=attn.scale)
        attended = attended.transpose(1, 2).flatten(2)
        output = attn.to_out[1](attn.to_out[0](attended)) / attn.rescale_output_factor
        return output if not self.alpha else (1 - self.alpha) * output + self.alpha * hidden_states


@contextmanager
def controlled(
    model: LatentModel, editor: MapEditor | None = None, alpha: float = 0.0, places: Sequence[str] = ('up',)
) -> Iterator[None]:
    """Control the attention of a network inside the block; afterwards it is as before.

    Args:
        model: pipeline.
        editor: of attention maps.
        alpha: of RLI, in [0, 1].
        places: where RLI acts, among ``down``, ``mid`` and ``up``.

    Raises:
        ValueError: if ``alpha`` or ``places`` is wrong.
    """
    check_rli(alpha, places)
    before = model.unet.attn_processors
    processors = {}
    for name in before:
        site = site_of(name)
        processors[name] = ControlledAttention(site, editor, alpha if site.place in places else 0.0)
    model.unet.set_attn_processor(processors)
    try:
        yield
    finally:
        model.unet.set_attn_processor(before)


def check_rli(alpha: float, places: Sequence[str]) -> None:
    """Raise when the settings of RLI are wrong."""
    if not 0 <= alpha <= 1:
        raise ValueError(f'`alpha` must be in [0, 1], got {alpha}; it is the share of the input in the output.')
    wrong = sorted(set(places) - set(PLACES))
    if wrong:
        raise ValueError(f'`places` must be among {", ".join(PLACES)}, got {wrong[0]!r}.')


def site_of(name: str) -> AttentionSite:
    """Return the site of a processor of diffusers, whose name holds block and layer (``attn2`` sees the text)."""
    place = next((p for p in PLACES if name.startswith(f'{p}_block')), None)
    if place is None or ('attn1' in name) == ('attn2' in name):
        raise ValueError(
            f'the network must consist of down, mid and up blocks with attn1 and attn2, but it has '
            f'{name}; it is no UNet2DConditionModel with transformer blocks.'
        )
    return AttentionSite(name, place, 'attn2' in name)


def _split_heads(values: Tensor, heads: int) -> Tensor:
    return values.unflatten(-1, (heads, -1)).transpose(1, 2)


#: Called after each step of DDIM with its index and the latents; returns the latents to go on with.
StepHook = Callable[[int, Tensor], Tensor]


def square_side(pixels: int, size_hw: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of an attention map with so many pixels for latents of this size."""
    factor = (size_hw[0] * size_hw[1] / pixels) ** 0.5
    height, width = round(size_hw[0] / factor), round(size_hw[1] / factor)
    if height * width != pixels:
        raise ValueError(
            f'an attention map of {pixels} pixels must be a scaled copy of latents of {size_hw}, but no '
            'scale fits; compute a size that is a multiple of 64.'
        )
    return height, width


def resize_map(values: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Return ``(B, 1, h, w)`` float at another size, bilinear."""
    return values if values.shape[-2:] == torch.Size(size_hw) else F.interpolate(values, size_hw, mode='bilinear')
