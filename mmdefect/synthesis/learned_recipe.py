"""Freeze a learned policy into what plain training takes: a recipe of ``PasteDefects``, and ``policy.json``.

Weights of losses become shares of draws: a stream with weight ``w`` drawn with share ``f`` and one with weight 1 drawn
with share ``f w`` have the same expected gradient, up to a factor common to all streams. In the same way a map that
weighs evenly drawn places becomes the density that places are drawn from; its mean becomes part of the share.
"""

from __future__ import annotations

import json
import os
import pprint
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mmdefect.synthesis.augment import OPERATIONS
from mmdefect.synthesis.learned_policy import CLEAN, LEAST_PROBABILITY, REAL, LearnedPolicy

FORMAT = 'mmdefect-policy/1'
#: Streams that weigh less than this share of the heaviest one are left out of a recipe.
LEAST_SHARE = 0.01
#: Place of the recipe's own folder, which mmengine fills in when it reads the file.
HERE = '{{ fileDirname }}'


def freeze(
    policy: LearnedPolicy, recipe: Mapping[str, Any], density: str | None = None, map_mean: float | None = None
) -> dict[str, Any]:
    """Return a ``synthesis`` recipe with what was learned, the rest as in ``recipe``.

    Args:
        policy: the learned policy.
        recipe: the ``synthesis`` that learning started from, with one ``PasteDefects``.
        density: path of the learned map, or of the folder with one for each image; ``None`` without locations.
        map_mean: mean of the learned map over the objects, relative to a fresh one; ``None`` for maps that do not say
            how much.

    Returns:
        Plain values, to be written with :func:`recipe_text`.

    Raises:
        ValueError: if every pasting stream weighs nothing: then the recipe is ``synthesis = None``.
    """
    weights = dict(zip(policy.names, policy.stream_weights().tolist(), strict=True))
    pasting = {name: weights[name] for name in policy.streams}
    heaviest = max(pasting.values())
    if not heaviest > 0:
        raise ValueError(
            'a recipe must paste something, but every pasting stream was learned to weigh 0: defects made '
            'this way do not help here; train with `synthesis = None`.'
        )
    kept = {name: w for name, w in pasting.items() if w >= LEAST_SHARE * heaviest}
    ratio = recipe.get('ratio') or dict(real=1, synthetic=1, clean=1)
    strength = sum(kept.values()) / len(pasting) * (1.0 if map_mean is None else map_mean)
    ratio = dict(
        real=_rounded(ratio['real'] * weights[REAL]),
        synthetic=_rounded(ratio['synthetic'] * strength),
        clean=_rounded(ratio['clean'] * weights[CLEAN]),
    )
    base = _pasting(recipe)
    location = dict(recipe.get('location') or {})
    if density is not None:
        location['density'] = density
    transforms = [
        dict(base, policy=_stream_policy(policy, name, base.get('policy') or {}, density is not None), stream=number)
        for number, name in enumerate(kept)
    ]
    return dict(
        {k: v for k, v in recipe.items() if k not in ('ratio', 'transforms', 'weights', 'location', 'where')},
        ratio=ratio,
        location=location,
        transforms=transforms,
        weights=[_rounded(w) for w in kept.values()],
    )


def _pasting(recipe: Mapping[str, Any]) -> dict[str, Any]:
    transforms = [dict(t) for t in recipe.get('transforms') or []]
    if [t.get('type') for t in transforms] != ['PasteDefects']:
        raise ValueError(
            'a policy is learned for a recipe with one PasteDefects, got '
            f'{[t.get("type") for t in transforms]}; take configs/_base_/synthesis/paste_poisson.py.'
        )
    return transforms[0]


def _stream_policy(policy: LearnedPolicy, stream: str, base: Mapping[str, Any], located: bool) -> dict[str, Any]:
    ranges = policy.ranges_of(stream)
    # A probability at its floor is "never".
    chances = [_rounded(p) if p > LEAST_PROBABILITY * 1.01 else 0.0 for p in ranges.probability]
    operations = {name: [_rounded(v) for v in getattr(ranges, name).tolist()] for name in OPERATIONS}
    operations |= dict(
        probability=chances,
        flip_probability=ranges.flip_probability,
        elastic=list(ranges.elastic),
        elastic_probability=ranges.elastic_probability,
        isotropic=ranges.isotropic,
    )
    places = dict(base.get('places') or {'density': 1.0})
    if located:
        places = {
            'density': sum(w for p, w in places.items() if p != 'source'),
            **{p: w for p, w in places.items() if p == 'source'},
        }
    return dict(base, operations=operations, places=places)


def policy_body(policy: LearnedPolicy, **facts: Any) -> dict[str, Any]:
    """Return the body of ``policy.json``: everything that was learned but the maps, and the given facts."""
    return dict(
        format=FORMAT,
        learned=list(policy.learn),
        streams={k: list(v) for k, v in policy.streams.items()},
        weights=dict(zip(policy.names, map(_rounded, policy.stream_weights().tolist()), strict=True)),
        ranges={
            name: [_rounded(v) for v in pair] for name, pair in zip(OPERATIONS, policy.bounds().tolist(), strict=True)
        },
        probabilities=dict(zip(OPERATIONS, map(_rounded, policy.chances().tolist()), strict=True)),
        **facts,
    )


@torch.no_grad()
def start_from(policy: LearnedPolicy, body: Mapping[str, Any]) -> None:
    """Set weights, ranges and probabilities of a policy to those of a ``policy.json``.

    Raises:
        ValueError: if the body is of another format, or its streams are others.
    """
    if body.get('format') != FORMAT:
        raise ValueError(f'a policy must have format {FORMAT!r}, got {body.get("format")!r}.')
    if {k: tuple(v) for k, v in body['streams'].items()} != policy.streams:
        raise ValueError(f'the policy must have the streams {list(policy.streams)}, got {list(body["streams"])}.')
    policy.raw_weights.copy_(torch.tensor([body['weights'][name] for name in policy.names]))
    ranges = torch.tensor([body['ranges'][name] for name in OPERATIONS], dtype=policy.units.dtype)
    policy.raw_ranges.copy_(ranges / policy.units.cpu()[:, None])
    chances = torch.tensor([body['probabilities'][name] for name in OPERATIONS], dtype=torch.float64)
    policy.raw_probabilities.copy_(torch.logit(chances.clamp(LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)))
    policy.project()


def recipe_text(recipe: Mapping[str, Any], headline: str) -> str:
    """Return a config file that holds the recipe; it goes among the ``_base_`` files of a leaf."""
    body = pprint.pformat(dict(recipe), width=110, sort_dicts=False, compact=True)
    return f'# {headline}\nsynthesis = {body}\n'


def write_files(folder: str | os.PathLike, files: Mapping[str, str | Mapping[str, Any]]) -> None:
    """Write texts and JSON bodies into a folder, each whole or not at all."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, body in files.items():
        text = body if isinstance(body, str) else json.dumps(body, indent=1) + '\n'
        handle, unfinished = tempfile.mkstemp(dir=folder, prefix=f'.{name}.', suffix='.tmp')
        try:
            with os.fdopen(handle, 'w', encoding='utf-8') as stream:
                stream.write(text)
            os.chmod(unfinished, 0o644)
            os.replace(unfinished, folder / name)
        except BaseException:
            os.unlink(unfinished)
            raise


def _rounded(value: float) -> float:
    return float(f'{float(value):.6g}')
