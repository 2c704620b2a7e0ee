"""Texts around a learned token: a token that was seen in many sentences does not learn one of them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

#: Sentences for learning; ``{}`` is the place of the token.
TEMPLATES = (
    'a photo of {}',
    'a close up photo of {}',
    'a sharp photo of {}',
    'a dark photo of {}',
    'a bright photo of {}',
    'a blurry photo of {}',
    'a cropped photo of {}',
    'a magnified view of {}',
    'a detailed image of {}',
    'an inspection image of {}',
    'a microscope image of {}',
    'a grey image of {}',
    'an image of a part with {}',
    'a surface that shows {}',
    'a surface with {}',
    'a photo of a product with {}',
    'a faulty part with {}',
    'a damaged surface with {}',
    'a close view of {} on a surface',
    'one example of {}',
    'a small {}',
    'a large {}',
    'a typical {}',
    'an unusual {}',
    '{} seen from above',
    '{} under bright light',
    '{} under dim light',
)


def draw_text(templates: Sequence[str], name: str, generator: torch.Generator) -> str:
    """Return one of the sentences with the token in it."""
    return templates[int(torch.randint(len(templates), (), generator=generator))].replace('{}', name)


def check_templates(templates: Sequence[str]) -> None:
    """Raise unless every sentence has exactly one place for the token."""
    wrong = [t for t in templates if t.count('{}') != 1]
    if wrong or not templates:
        raise ValueError(f'each template must hold {{}} once, where the token goes, got {wrong[:1] or "none"}.')
