"""Which token of an edited text takes the attention of which token of the source text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

import torch
from torch import Tensor

from mmdefect.diffusion.latent_model import MAX_TOKENS, LatentModel

MODES = ('replace', 'refine', 'auto')


@dataclass(frozen=True)
class Alignment:
    """How the tokens of two texts correspond.

    Attributes:
        source: ``(77,)`` int64, for each token of the edited text the token of the source text it corresponds to.
        carried: ``(77,)`` bool, whether it takes that token's attention; others keep their own.
        changed_source: ``(77,)`` bool, tokens of the source text that are replaced.
        changed_target: ``(77,)`` bool, tokens of the edited text that are new.
        mode: ``replace`` or ``refine``.
    """

    source: Tensor
    carried: Tensor
    changed_source: Tensor
    changed_target: Tensor
    mode: str


def align(model: LatentModel, source: str, target: str, mode: str = 'replace') -> Alignment:
    """Align an edited text with its source.

    Args:
        model: pipeline, for its tokenizer.
        source: text of the image as it is.
        target: text of the image as it shall be.
        mode: ``replace``: word by word, every token takes the attention of its counterpart; the texts must have equally
            many words and counterparts equally many tokens. ``refine``: tokens that both texts have in the same order
            take the attention, new ones keep their own. ``auto``: ``replace`` where it is possible.

    Raises:
        ValueError: if ``replace`` is impossible, naming the words, or a text is too long.
    """
    if mode not in MODES:
        raise ValueError(f'`mode` must be one of {", ".join(MODES)}, got {mode!r}.')
    problem = _replace_problem(model, source, target)
    if mode == 'replace' and problem:
        raise ValueError(problem)
    before, after = token_ids(model, source), token_ids(model, target)
    matched = SequenceMatcher(a=before, b=after, autojunk=False).get_matching_blocks()
    changed_source, changed_target = torch.ones(MAX_TOKENS, dtype=torch.bool), torch.ones(MAX_TOKENS, dtype=torch.bool)
    indices = torch.arange(MAX_TOKENS)
    for block in matched:
        changed_source[block.a : block.a + block.size] = False
        changed_target[block.b : block.b + block.size] = False
        indices[block.b : block.b + block.size] = torch.arange(block.a, block.a + block.size)
    changed_source[len(before) :], changed_target[len(after) :] = False, False
    if not problem and mode != 'refine':
        everything = torch.ones(MAX_TOKENS, dtype=torch.bool)
        return Alignment(torch.arange(MAX_TOKENS), everything, changed_source, changed_target, 'replace')
    # behind the text both have only padding, which corresponds to padding
    padding = torch.arange(MAX_TOKENS - len(after)) + len(before)
    indices[len(after) :] = padding.clamp(max=MAX_TOKENS - 1)
    return Alignment(indices, ~changed_target, changed_source, changed_target, 'refine')


def token_ids(model: LatentModel, text: str) -> list[int]:
    """Return the ids of a text with its marks, without padding.

    Raises:
        ValueError: if it is too long.
    """
    ids = model.tokenizers[0](text).input_ids
    if len(ids) > MAX_TOKENS:
        raise ValueError(
            f'the text must have at most {MAX_TOKENS} tokens with its marks, but {text!r} has {len(ids)}; shorten it.'
        )
    return ids


def word_tokens(model: LatentModel, text: str, words: Sequence[str]) -> Tensor:
    """Return which tokens of a text belong to some words, ``(77,)`` bool.

    Raises:
        ValueError: if a word is not in the text.
    """
    found, place = torch.zeros(MAX_TOKENS, dtype=torch.bool), 1  # the first token is the mark of the beginning
    missing = set(words)
    for word in text.split():
        count = _count(model, word)
        if word in words:
            found[place : place + count] = True
            missing.discard(word)
        place += count
    if missing:
        raise ValueError(f'each word must be in the text {text!r}, but {sorted(missing)[0]!r} is not.')
    return found


def _replace_problem(model: LatentModel, source: str, target: str) -> str | None:
    old, new = source.split(), target.split()
    advice = 'take other words, or --mode refine (or auto), which aligns texts of different lengths.'
    if len(old) != len(new):
        return (
            f'texts must have equally many words to be replaced word by word, but {source!r} has {len(old)} and '
            f'{target!r} {len(new)}; {advice}'
        )
    for first, second in zip(old, new, strict=True):
        counts = _count(model, first), _count(model, second)
        if counts[0] != counts[1]:
            return (
                f'words must have equally many tokens to be replaced, but {first!r} has {counts[0]} and {second!r} '
                f'{counts[1]} in {model.name}; {advice}'
            )
    return None


def _count(model: LatentModel, word: str) -> int:
    return len(model.tokenizers[0](word, add_special_tokens=False).input_ids)
