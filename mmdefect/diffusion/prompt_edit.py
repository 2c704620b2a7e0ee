r"""Prompt-to-prompt: change a word of the text and keep the image (Hertz et al., 2022), on controlled attention.

Source and edited image are denoised side by side. For the first part of the steps the edited one takes the attention
maps of the source, token by token; words can be given more weight; where neither the old nor the new words attend, the
latents of the source are kept (local blend).

Residual linear interpolation (RLI) replaces the output of self-attention by :math:`(1 - \alpha)\,\mathrm{Attn}(x) +
\alpha x` with :math:`x` its input; in the published generator :math:`\alpha = 0.1` in the up blocks. :math:`\alpha = 0`
is the network as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import SequenceMatcher

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdefect.diffusion.inversion import DDIMSteps, denoise_step
from mmdefect.diffusion.model import MAX_TOKENS, LatentModel, TextCondition

PLACES = ('down', 'mid', 'up')
MODES = ('replace', 'refine', 'auto')


@dataclass(frozen=True)
class EditSettings:
    """How an image is edited."""

    mode: str = 'replace'  # `replace`, `refine` or `auto`, see :func:`align`
    cross_replace: float = 1.0  # share of the steps in which maps to the text come from the source; published 1.0
    self_replace: float = 0.8  # the same for the maps within the image; published 0.8 to 0.3
    self_pixels: int = 1024  # only maps of at most this many pixels are taken
    weight: float = 2.0  # factor on the attention to the new words; published 2
    local_blend: bool = True  # whether the source is kept where the words do not attend
    blend_threshold: float = 0.3  # attention, relative to its maximum, above which a pixel may change
    blend_start: float = 0.2  # share of the steps before the blend sets in
    blend_factor: int = 2  # side of the latents over side of the maps that are used; published 64 / 32
    guidance: float = 5.0  # weight of the text
    alpha: float = 0.1  # of RLI
    places: Sequence[str] = ('up',)  # where RLI acts, among :data:`PLACES`

    def __post_init__(self) -> None:
        for name in ('cross_replace', 'self_replace', 'blend_threshold', 'blend_start', 'alpha'):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f'`{name}` must be in [0, 1], got {getattr(self, name)}; it is a share.')
        for name, least in dict(weight=0, self_pixels=0, guidance=1, blend_factor=1).items():
            if getattr(self, name) < least:
                raise ValueError(f'`{name}` must be at least {least}, got {getattr(self, name)}.')
        wrong = sorted(set(self.places) - set(PLACES))
        if wrong:
            raise ValueError(f'`places` must be among {", ".join(PLACES)}, got {wrong[0]!r}.')


@dataclass(frozen=True)
class AttentionSite:
    """One attention layer: ``down``, ``mid`` or ``up``, and whether it attends to the text."""

    place: str
    is_cross: bool


def site_of(name: str) -> AttentionSite:
    """Return the site of a processor of diffusers, whose name holds block and layer (``attn2`` sees the text)."""
    place = next((p for p in PLACES if name.startswith(f'{p}_block')), None)
    if place is None or ('attn1' in name) == ('attn2' in name):
        raise ValueError(
            f'the network must be a UNet2DConditionModel with transformer blocks, but it has an attention {name}.'
        )
    return AttentionSite(place, 'attn2' in name)


class ControlledAttention:
    """Attention processor of diffusers: an editor, if any, sees the maps; RLI with ``alpha`` acts on self-attention."""

    def __init__(self, site: AttentionSite, editor: PromptEditor | None, alpha: float) -> None:
        self.site, self.editor, self.alpha = site, editor, 0.0 if site.is_cross else alpha

    def __call__(self, attn, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **unused) -> Tensor:
        """Attend: ``(B, N, D)`` float to the text ``(B, L, E)``, or to itself."""
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = (
            layer(x).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
            for layer, x in ((attn.to_q, hidden_states), (attn.to_k, source), (attn.to_v, source))
        )
        if self.editor is not None and self.editor.wants(self.site, hidden_states.shape[1]):
            scores = (query @ key.transpose(-1, -2)).float() * attn.scale
            attended = self.editor.edit(scores.softmax(-1), self.site).to(value.dtype) @ value
        else:
            attended = F.scaled_dot_product_attention(query, key, value, scale=attn.scale)
        attended = attended.transpose(1, 2).flatten(2)
        output = attn.to_out[1](attn.to_out[0](attended)) / attn.rescale_output_factor
        return output if not self.alpha else (1 - self.alpha) * output + self.alpha * hidden_states


@contextmanager
def controlled(
    model: LatentModel, editor: PromptEditor | None = None, alpha: float = 0.0, places: Sequence[str] = ('up',)
) -> Iterator[None]:
    """Control the attention of a network inside the block: an editor of its maps, and RLI at ``places``."""
    before = model.unet.attn_processors
    sites = {name: site_of(name) for name in before}
    processors = {n: ControlledAttention(s, editor, alpha if s.place in places else 0.0) for n, s in sites.items()}
    model.unet.set_attn_processor(processors)
    try:
        yield
    finally:
        model.unet.set_attn_processor(before)


def map_size(pixels: int, size_hw: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of an attention map of this many pixels for latents of this size."""
    factor = (size_hw[0] * size_hw[1] / pixels) ** 0.5
    height, width = round(size_hw[0] / factor), round(size_hw[1] / factor)
    if height * width != pixels:
        raise ValueError(
            f'a map of {pixels} pixels must be a scaled copy of latents of {size_hw}; compute a multiple of 64.'
        )
    return height, width


@dataclass(frozen=True)
class Alignment:
    """How the tokens of two texts correspond."""

    source: Tensor  # `(77,)` int64, for each token of the edited text the token of the source text it corresponds to
    carried: Tensor  # `(77,)` bool, whether it takes that token's attention; others keep their own
    changed_source: Tensor  # `(77,)` bool, tokens of the source text that are replaced
    changed_target: Tensor  # `(77,)` bool, tokens of the edited text that are new
    mode: str  # `replace` or `refine`


def align(model: LatentModel, source: str, target: str, mode: str = 'replace') -> Alignment:
    """Align an edited text with its source, by the tokenizer of a model.

    Args:
        mode: ``replace``: word by word, every token takes the attention of its counterpart; the texts must have equally
            many words and counterparts equally many tokens. ``refine``: tokens that both texts have in the same order
            take the attention, new ones keep their own. ``auto``: ``replace`` where it is possible.
    """
    if mode not in MODES:
        raise ValueError(f'`mode` must be one of {", ".join(MODES)}, got {mode!r}.')
    problem = _replace_problem(model, source, target)
    if mode == 'replace' and problem:
        raise ValueError(problem)
    before, after = token_ids(model, source), token_ids(model, target)
    indices, changed_source, changed_target = (
        torch.arange(MAX_TOKENS),
        torch.arange(MAX_TOKENS) < len(before),
        torch.arange(MAX_TOKENS) < len(after),
    )
    for block in SequenceMatcher(a=before, b=after, autojunk=False).get_matching_blocks():
        changed_source[block.a : block.a + block.size] = False
        changed_target[block.b : block.b + block.size] = False
        indices[block.b : block.b + block.size] = torch.arange(block.a, block.a + block.size)
    if not problem and mode != 'refine':
        everything = torch.ones(MAX_TOKENS, dtype=torch.bool)
        return Alignment(torch.arange(MAX_TOKENS), everything, changed_source, changed_target, 'replace')
    # behind the text both have only padding, which corresponds to padding
    padding = torch.arange(MAX_TOKENS - len(after)) + len(before)
    indices[len(after) :] = padding.clamp(max=MAX_TOKENS - 1)
    return Alignment(indices, ~changed_target, changed_source, changed_target, 'refine')


def _replace_problem(model: LatentModel, source: str, target: str) -> str | None:
    """Return why the words of two texts cannot be replaced one by one, or ``None``."""
    old, new = source.split(), target.split()
    advice = 'take other words, or --mode refine (or auto), which aligns texts of different lengths.'
    if len(old) != len(new):
        return (
            f'texts must have equally many words to be replaced word by word, but {source!r} has {len(old)} and '
            f'{target!r} {len(new)}; {advice}'
        )
    for first, second in zip(old, new, strict=True):
        counts = _count_tokens(model, first), _count_tokens(model, second)
        if counts[0] != counts[1]:
            return (
                f'words must have equally many tokens to be replaced, but {first!r} has {counts[0]} and {second!r} '
                f'{counts[1]} in {model.name}; {advice}'
            )
    return None


def _count_tokens(model: LatentModel, word: str) -> int:
    return len(model.tokenizers[0](word, add_special_tokens=False).input_ids)


def token_ids(model: LatentModel, text: str) -> list[int]:
    """Return the ids of a text with its marks, without padding; a text that is too long raises ``ValueError``."""
    ids = model.tokenizers[0](text).input_ids
    if len(ids) > MAX_TOKENS:
        raise ValueError(
            f'the text must have at most {MAX_TOKENS} tokens with its marks, but {text!r} has {len(ids)}; shorten it.'
        )
    return ids


def word_tokens(model: LatentModel, text: str, words: Sequence[str]) -> Tensor:
    """Return which tokens of a text belong to some words, ``(77,)`` bool; every word must be in the text."""
    found, place = torch.zeros(MAX_TOKENS, dtype=torch.bool), 1  # the first token is the mark of the beginning
    missing = set(words)
    for word in text.split():
        count = _count_tokens(model, word)
        if word in words:
            found[place : place + count] = True
            missing.discard(word)
        place += count
    if missing:
        raise ValueError(f'each word must be in the text {text!r}, but {sorted(missing)[0]!r} is not.')
    return found


class PromptEditor:
    """Edits the attention maps of a pass over ``[empty source, empty edited, source, edited]``, ``B`` images each.

    ``weights`` are ``(77,)`` float factors on the attention of the edited image to its tokens.
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
        small = pixels <= self.settings.self_pixels
        return site.is_cross or (small and self.step < self.settings.self_replace * self.steps)

    def edit(self, maps: Tensor, site: AttentionSite) -> Tensor:
        """Give the edited images the maps of their sources, ``(B, heads, pixels, keys)``.

        Rows of the result sum to 1 unless words are reweighted.
        """
        empty_source, empty_edited, source, edited = maps.unflatten(0, (4, -1))
        if not site.is_cross:
            return torch.cat([empty_source, empty_edited, source, source])
        if self.step < self.settings.cross_replace * self.steps:
            moved = source[..., self.alignment.source.to(source.device)]
            edited = torch.where(self.alignment.carried.to(source.device), moved, edited)
        edited = edited * self.weights.to(edited)
        if self.settings.local_blend:
            self._collect(source, edited)
        return torch.cat([empty_source, empty_edited, source, edited])

    def _collect(self, source: Tensor, edited: Tensor) -> None:
        """Sum the attention to the changed words, ``(2, B, pixels)``, over layers and steps."""
        height, _ = map_size(source.shape[2], self.latent_hw)
        self._seen_factors.add(self.latent_hw[0] // height)
        if height * self.settings.blend_factor != self.latent_hw[0]:
            return
        nothing = source.new_zeros(source.shape[0], source.shape[2])
        changed = ((source, self.alignment.changed_source), (edited, self.alignment.changed_target))
        both = torch.stack([maps[..., words].mean((1, 3)) if words.any() else nothing for maps, words in changed])
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
        if maps.shape[-2:] != torch.Size(self.latent_hw):
            maps = F.interpolate(maps, self.latent_hw, mode='bilinear')
        high = maps.amax((2, 3), keepdim=True)
        found = (maps > self.settings.blend_threshold * high) & (high > 0)
        return found.unflatten(0, small.shape[:2]).any(0)


def make_editor(
    model: LatentModel, source: str, target: str, settings: EditSettings, steps: int, latent_hw: tuple[int, int]
) -> PromptEditor:
    """Return the editor of one pair of texts; texts that cannot be aligned raise ``ValueError``."""
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
) -> tuple[Tensor, Tensor]:
    """Denoise source and edited images side by side; returns the latents of reconstruction and edit, like ``start``.

    Args:
        start: ``(B, C, h, w)`` float32 noise that inversion found.
        condition: source text of each image.
        target: edited text of each image.
        empties: unconditional text of every step, see :mod:`~mmdefect.diffusion.inversion`.
    """
    settings = editor.settings
    latents = torch.cat([start, start])
    texts = TextCondition.cat([condition, target])
    with controlled(model, editor, settings.alpha, settings.places):
        for index in range(len(steps)):
            empty = TextCondition.cat([empties[index], empties[index]])
            moved = denoise_step(model, latents, steps, index, texts, empty, settings.guidance)
            latents = editor.after_step(moved)
    return latents.chunk(2)
