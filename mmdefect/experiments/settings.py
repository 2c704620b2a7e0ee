"""Settings of a run as plain nested dicts: merge, override by dotted key, budget, hash and difference.

A *setting* is what a config file holds after its bases were read. Nothing here knows a config library: the caller
brings plain dicts, lists and scalars.
"""

import ast
import copy
import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

#: Dotted keys that change no result of a run: where it lies, how it is logged, how many workers load its data,
#: in which order its numbers lie in memory.
WITHOUT_EFFECT = (
    *('work_dir', 'resume', 'launcher', 'log_level', 'log_processor*', 'vis_backends*', 'visualizer*', 'env_cfg*'),
    *(f'default_hooks.{name}' for name in ('logger*', 'timer*', 'visualization*', 'checkpoint.max_keep_ckpts')),
    *(f'*_dataloader.{name}' for name in ('num_workers', 'persistent_workers', 'pin_memory', 'prefetch_factor')),
    *('*_evaluator.output_dir', '*_evaluator.output_root', 'custom_imports*', 'tta*', 'cpu_channels_last'),
)
#: Variables that a config file leaves behind once its loaders hold their content.
LEFTOVERS = ('train_pipeline*', 'test_pipeline*', 'data_root')
SEED = 'randomness.seed'


def merge(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``change`` laid over it; neither is modified.

    Dicts are merged key by key, except that a dict whose ``type`` differs from the one below it, or that has
    ``_delete_=True``, replaces it: the arguments of another class mean nothing to the new one. Lists are replaced.
    """
    merged = {key: copy.deepcopy(value) for key, value in base.items()}
    for key, value in change.items():
        below = merged.get(key)
        if isinstance(value, Mapping):
            other_type = isinstance(below, Mapping) and 'type' in value and value['type'] != below.get('type')
            keeps = isinstance(below, Mapping) and not value.get('_delete_', False) and not other_type
            merged[key] = merge(below if keeps else {}, {k: v for k, v in value.items() if k != '_delete_'})
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def override(settings: dict[str, Any], key: str, value: Any) -> None:
    """Set one dotted key in place, such as ``model.auxiliary_head.0.loss_decode.gamma``; dicts are merged."""
    *path, last = key.split('.')
    node: Any = settings
    for depth, part in enumerate(path):
        where = '.'.join(path[:depth])
        node = node.setdefault(part, {}) if isinstance(node, dict) else node[_index(node, part, where, key)]
    if isinstance(node, dict):
        node[last] = merge({'_': node.get(last)}, {'_': value})['_']
    else:
        node[_index(node, last, '.'.join(path), key)] = copy.deepcopy(value)


def overridden(settings: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of settings with ``{dotted key: value}`` set, see :func:`override`."""
    changed = merge(settings, {})
    for key, value in overrides.items():
        override(changed, key, value)
    return changed


def _index(node: Any, part: str, where: str, key: str) -> int:
    if isinstance(node, list) and part.isdigit() and int(part) < len(node):
        return int(part)
    kind = f'a list of {len(node)}' if isinstance(node, list) else repr(node)
    raise ValueError(
        f'the override {key!r} must lead through dicts and existing list indices, but {where!r} is {kind}.'
    )


def parse_overrides(overrides: Mapping[str, Any] | list[str] | tuple[str, ...]) -> dict[str, Any]:
    """Return overrides as ``{dotted key: value}`` from a dict or from ``key=value`` texts (values as in Python)."""
    if isinstance(overrides, Mapping):
        return dict(overrides)
    parsed = {}
    for text in overrides:
        key, equals, value = text.partition('=')
        if not (key.strip() and equals):
            raise ValueError(f'an override must look like key=value, got {text!r}.')
        try:
            parsed[key.strip()] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            parsed[key.strip()] = value.strip()  # a bare word, such as a path
    return parsed


def set_budget(settings: dict[str, Any], iterations: int, val_interval: int) -> None:
    """Give a run its number of updates, in place: the training loop, the checkpoints, and every learning-rate schedule.

    Schedules are stretched by the same factor as the training, so that warm-up and decay keep their shares.
    """
    if not 0 < val_interval <= iterations or iterations % val_interval:
        values = f'{iterations} and {val_interval}; the last weights could not be chosen otherwise'
        raise ValueError(f'`iterations` must be a multiple of `val_interval`, got {values}.')
    loop = settings.get('train_cfg') or {}
    former = loop.get('max_iters')
    if not former:
        raise ValueError(
            f'the base config must train by iterations (`train_cfg.max_iters`), but train_cfg={loop!r}; choose another.'
        )
    stretch_schedules(settings.get('param_scheduler') or [], iterations / former)
    loop.update(max_iters=iterations, val_interval=val_interval)
    settings.setdefault('default_hooks', {}).setdefault('checkpoint', {}).update(interval=val_interval)


def stretch_schedules(schedules: dict[str, Any] | list[dict[str, Any]], factor: float) -> None:
    """Stretch learning-rate schedules in place, so that warm-up and decay keep their shares of a training."""
    for schedule in [schedules] if isinstance(schedules, dict) else schedules if factor != 1 else ():
        for key in ('begin', 'end', 'T_max', 'total_iters'):
            if isinstance(schedule.get(key), int):
                schedule[key] = round(schedule[key] * factor)
        if 'end' in schedule:  # a warm-up of less than two updates would never come to its end value
            schedule['end'] = max(schedule['end'], schedule.get('begin', 0) + 2)
        if isinstance(schedule.get('milestones'), list):
            schedule['milestones'] = [round(step * factor) for step in schedule['milestones']]


def flatten(settings: Any, prefix: str = '') -> dict[str, Any]:
    """Return ``{dotted key: scalar}``; list items are numbered, an empty dict or list stays as a value."""
    is_list = isinstance(settings, (list, tuple))
    if is_list and any(isinstance(value, (Mapping, list, tuple)) for value in settings):
        settings = dict(enumerate(settings))
    elif not isinstance(settings, Mapping) or not settings:
        return {prefix: list(settings) if is_list else settings}
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat.update(flatten(value, f'{prefix}.{key}' if prefix else str(key)))
    return flat


def with_effect(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the flat settings that can change a result, without the seed and the roots of the data."""
    skipped = (*WITHOUT_EFFECT, *LEFTOVERS, SEED, '*.data_root')
    return {key: value for key, value in flatten(settings).items() if not any(fnmatch(key, rule) for rule in skipped)}


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return ``{key: [old value, new value]}`` of two flat settings; an absent key counts as ``None``."""
    plain_old, plain_new = json.loads(_canonical(old)), json.loads(_canonical(new))
    keys = sorted({*plain_old, *plain_new})
    return {key: [plain_old.get(key), plain_new.get(key)] for key in keys if plain_old.get(key) != plain_new.get(key)}


def digest(value: Any) -> str:
    """Return 16 hex digits that depend on the content of plain data only, not on the order of its keys."""
    return hashlib.sha256(_canonical(value).encode()).hexdigest()[:16]


def _canonical(value: Any) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _files_below(root: Path) -> Iterator[Path]:
    """Yield the files below a folder, also behind links to folders; a link back up is not followed."""
    for folder, names, files in os.walk(root, followlinks=True):
        here = Path(folder)
        if here != root and here.is_symlink() and here.resolve() in {above.resolve() for above in here.parents}:
            names.clear()
            continue
        names[:] = [name for name in names if not name.startswith('.')]
        yield from (here / name for name in files if not name.startswith('.') and (here / name).is_file())


def hash_files(root: Path, known: dict[str, list] | None = None, without: Collection[str] = ()) -> str:
    """Return 16 hex digits of all files below a folder, by relative name and content; or of one file.

    Hidden files and folders do not count. Links do, folders too: data that is linked into place counts by its content.
    ``known`` is ``{path: [size, time of change, digest]}`` of an earlier call, updated in place, so that only what has
    changed is read; files ``without`` in the folder itself do not count.
    """
    known = {} if known is None else known
    root = root.resolve()
    files = [root] if root.is_file() else sorted(_files_below(root))
    total = hashlib.sha256()
    for path in (path for path in files if path.parent != root or path.name not in without):
        stat, key = path.stat(), str(path)
        entry = known.get(key)
        if entry is None or entry[:2] != [stat.st_size, stat.st_mtime_ns]:
            entry = known[key] = [stat.st_size, stat.st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest()]
        name = '' if root.is_file() else path.relative_to(root).as_posix()
        total.update(f'{name}\0{entry[2]}\n'.encode())
    return total.hexdigest()[:16]
