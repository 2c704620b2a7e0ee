"""What makes a comparison less than it seems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatch

from mmdefect.experiments import settings as st
from mmdefect.experiments.tested_run import Evidence


def warn(arms: Mapping[str, Sequence[Evidence]], reference: str, factor_keys: Sequence[str] = ()) -> list[str]:
    """Return what makes a comparison less than it seems, one sentence each."""
    notes: list[str] = []
    seeds = {name: [run.seed for run in runs] for name, runs in arms.items()}
    longest = max(len(found) for found in seeds.values())
    for name, found in seeds.items():
        if len(found) < longest:
            notes.append(f'seeds missing: `{name}` has {len(found)} of {longest} ({found}).')
    if longest < 3:
        notes.append(f'{longest} seed(s): at least three are needed to tell an effect from the luck of one training.')
    first = arms[reference][0]
    for name, runs in arms.items():
        if name == reference:
            continue
        notes += _setting_warnings(name, first, runs[0], factor_keys)
        shared = {run.key for run in runs} & {run.key for run in arms[reference]} - {''}
        if shared:
            notes.append(f'`{name}` and `{reference}` share {len(shared)} run(s): the same settings, seed and data.')
    for name, runs in arms.items():
        inside = {key for run in runs for key in st.difference(runs[0].settings, run.settings)}
        if inside:
            notes.append(f'the runs of `{name}` differ among themselves in {_some(inside)}.')
        for run in runs:
            tested = {entry['checkpoint'] for entry in run.tests}
            if len(tested) > 1:
                notes.append(
                    f'`{name}`, {run.name}: the test set was read {len(run.tests)} times with {len(tested)} '
                    'checkpoints; choosing among those would be selection on test.'
                )
            if run.leaks:
                notes.append(
                    f'`{name}`, {run.name}: {len(run.leaks)} donor(s) come from test images, the first is '
                    f'{run.leaks[0]}; its test result does not count.'
                )
    for what in ('data', 'commit', 'versions', 'hardware'):
        if len({st.digest(run.source[what]) for runs in arms.values() for run in runs if what in run.source}) > 1:
            notes.append(f'the runs differ in {what}.')
    return notes


def _setting_warnings(name: str, first: Evidence, other: Evidence, factor_keys: Sequence[str]) -> list[str]:
    notes = []
    for key in ('iterations', 'batch_size'):
        if first.budget.get(key) != other.budget.get(key):
            notes.append(
                f'unequal budget: `{name}` has {key} {other.budget.get(key)}, the reference {first.budget.get(key)}.'
            )
    budget_keys = ('train_cfg.max_iters', 'train_dataloader.batch_size')
    changed = [
        key
        for key in st.difference(first.settings, other.settings)
        if not any(fnmatch(key, pattern) for pattern in factor_keys) and key not in budget_keys
    ]
    if changed and factor_keys:
        notes.append(f'`{name}` differs in more than the factor: {_some(changed)}.')
    elif changed:
        notes.append(f'`{name}` differs from the reference in {_some(changed)}; no factor was named.')
    return notes


def _some(keys: Sequence[str] | set[str], most: int = 6) -> str:
    listed = sorted(keys)
    return ', '.join(f'`{key}`' for key in listed[:most]) + (
        f' and {len(listed) - most} more' if len(listed) > most else ''
    )
