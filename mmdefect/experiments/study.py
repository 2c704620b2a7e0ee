"""What a study is: arms that differ in one factor, trained alike with several seeds; and its runs.

A study is a Python file of plain values::

    name = 'losses'
    title = 'Which loss survives 99.8 % background?'
    base = 'configs/fast_scnn/fast-scnn_baseline_2k_wta-256.py'   # a leaf config; relative to the repository
    factor = dict(name='loss', keys=['*loss_decode*'])            # settings in which arms may differ
    arms = dict(
        ce={},
        focal=dict(bases=['configs/_base_/losses/focal.py']),
        focal_g5=dict(bases=['configs/_base_/losses/focal.py'], overrides={'loss_decode.gamma': 5.0}, priority=2))
    iterations = 2000
    val_interval = 200

An arm lays its ``bases`` over the base config and then its ``overrides`` (a dict with dotted keys, or
``key=value`` texts). The update budget comes between the two, so all arms have the same one unless an override
says otherwise, which the comparison then points out. A run is known by the hash of its composed settings, its seed
and its data: an arm that two studies share is trained once.
"""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import ModuleType
from typing import Any

from mmdefect.experiments import settings as st
from mmdefect.experiments.select import Rule

#: What a split file holds near its beginning (:mod:`mmdefect.datasets.split_file`).
SPLIT_FORMAT = re.compile(rb'"format"\s*:\s*"mmdefect-split/')
#: How a checkpoint is chosen where a study does not say.
USUAL_RULE = Rule('fg_mIoU')


@dataclass(frozen=True)
class Arm:
    """One way to train."""

    name: str  # short word for tables
    #: config files laid over the base config, in order; `{seed}` in a path stands for the seed of the run
    bases: tuple[str, ...] = ()
    #: `{dotted key: value}`, applied last; `{seed}` in a text likewise
    overrides: Mapping[str, Any] = field(default_factory=dict)
    priority: int = 1  # arms of a lower number are run first, all seeds of a number before the next
    seed_offset: int = 0  # added to each seed; gives a second arm of the same settings runs of its own
    seeds: tuple[int, ...] = ()  # those of the study's seeds that it is trained with; empty: all
    note: str = ''  # one sentence for the table


@dataclass(frozen=True)
class Study:
    """Arms x seeds under one budget."""

    name: str  # word for files
    base: str  # leaf config
    #: in the order of the table; the first is the one others are compared with, unless `baseline` says so
    arms: tuple[Arm, ...]
    iterations: int = 0  # updates of each run; 0 leaves the budget of the base config
    val_interval: int = 0  # updates between validations
    seeds: tuple[int, ...] = (0, 1, 2)  # random seeds
    factor: str = ''  # what differs between arms, in one word
    factor_keys: tuple[str, ...] = ()  # patterns of dotted settings in which arms may differ
    #: config files laid over the base config in all arms, before those of an arm; `{seed}` as there
    bases: tuple[str, ...] = ()
    #: `{dotted key: value}` of all arms; `{seed}` in a text as there
    overrides: Mapping[str, Any] = field(default_factory=dict)
    rule: Rule = USUAL_RULE  # how the checkpoint is chosen on the validation set
    metrics: tuple[str, ...] = ('fg_mIoU', 'fg_mAcc')  # columns of the table; the first one decides the order
    baseline: str = ''  # arm that the others are compared with
    #: `{what: ((without, with), ...)}`, arms that differ in the same thing; the page says what it does on average
    pairs: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    #: what may differ between runs of one key, of `code` and `versions`; the page then says what did
    tolerates: tuple[str, ...] = ()
    stopping: str = ''  # when no further run is made; for a preregistration
    #: what is claimed: `dict(pair=(without, with), metric=..., above=...)`, met when the whole interval lies above
    decision: tuple[Mapping[str, Any], ...] = ()
    title: str = ''  # headline of the report
    text: str = ''  # paragraph below it

    def __post_init__(self) -> None:
        names = [arm.name for arm in self.arms]
        if not names or len(set(names)) != len(names):
            raise ValueError(f'a study must have at least one arm, each with a name of its own, got {names}.')
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f'`seeds` must be different numbers, at least one, got {list(self.seeds)}.')
        if self.baseline and self.baseline not in names:
            raise ValueError(f'`baseline` must be one of the arms {names}, got {self.baseline!r}.')
        if set(self.tolerates) - {'code', 'versions'}:
            raise ValueError(f'`tolerates` must be some of code and versions, got {list(self.tolerates)}.')
        for claim in self.decision:
            if claim.keys() != {'pair', 'metric', 'above'} or set(claim['pair']) - set(names):
                raise ValueError(
                    f'a `decision` must be dict(pair=(arm, arm), metric=..., above=...) of {names}, got {claim}.'
                )
        if not all(len(pair) == 2 and set(pair) <= set(names) for group in self.pairs.values() for pair in group):
            raise ValueError(f'`pairs` must be pairs of the arms {names}, got {dict(self.pairs)}.')

    @property
    def reference(self) -> str:
        """Name of the arm that the others are compared with."""
        return self.baseline or self.arms[0].name

    def seeds_of(self, arm: Arm) -> list[int]:
        """Return the seeds that an arm is trained with, before its offset."""
        return [seed for seed in self.seeds if not arm.seeds or seed in arm.seeds]


@dataclass(frozen=True)
class Run:
    """One cell of a study."""

    key: str  # 16 hex digits of settings, seed and data
    arm: Arm  # the arm
    seed: int  # the seed of this run (the arm's offset included)
    settings: dict[str, Any]  # composed settings of the run, the seed included
    text: str  # config file that trains it
    diff: dict[str, list[Any]]  # `{dotted key: [base config, this run]}` without what has no effect
    data: dict[str, str]  # `{root of the data: hash}`
    code: str = ''  # digest of the code that trains; empty if the caller did not say


@dataclass(frozen=True)
class Composer:
    """What the config library does for a study; see ``tools/study.py`` for the real one."""

    read: Callable[[Path], dict[str, Any]]  # gives the settings of a config file, its bases read
    #: gives the settings as the training tool will see them, and the text of a config file that holds them
    compose: Callable[[dict[str, Any], Path], tuple[dict[str, Any], str]]
    #: gives the files of images and labels that a run reads; without it all files below the roots of its data count
    files: Callable[[dict[str, Any]], list[Path]] | None = None


def read_study(path: Path) -> Study:
    """Read a study file; ``ValueError`` names it and what in it is unknown or missing."""
    values = _read_values(path)
    factor, selection = values.pop('factor', {}), values.pop('selection', {})
    needed, known = {'name', 'base', 'arms'}, {f.name for f in fields(Study)} - {'rule', 'factor_keys'}
    missing, unknown = sorted(needed - values.keys()), sorted(values.keys() - known)
    if missing or unknown:
        known = f'{sorted(known)}, factor and selection; missing {missing}, unknown {unknown}'
        raise ValueError(f'{path} must set name, base and arms, and may set {known}.')
    if isinstance(factor, str):
        factor = {'name': factor}
    if factor.keys() - {'name', 'keys'}:
        raise ValueError(f'{path}: `factor` must be a word or dict(name=..., keys=[...]), got {factor!r}.')
    values['arms'] = tuple(_arm(name, value, path) for name, value in values['arms'].items())
    values['overrides'] = st.parse_overrides(values.get('overrides', {}))
    values.update((key, tuple(values[key])) for key in ('tolerates', 'decision') if key in values)
    values.update((key, tuple(values[key])) for key in ('seeds', 'metrics', 'bases') if key in values)
    pairs = values.get('pairs', {})
    groups = pairs if isinstance(pairs, Mapping) else {'': pairs}
    values['pairs'] = {what: tuple(tuple(pair) for pair in group) for what, group in groups.items() if group}
    if selection:
        values['rule'] = Rule(**selection)
    study = Study(**values, factor=factor.get('name', ''), factor_keys=tuple(factor.get('keys', ())))
    for arm in study.arms:
        if not set(arm.seeds) <= set(study.seeds):
            seeds = f"some of the study's, {list(study.seeds)}, got {list(arm.seeds)}"
            raise ValueError(f'{path}: the `seeds` of the arm {arm.name!r} must be {seeds}.')
    return study


def _read_values(path: Path) -> dict[str, Any]:
    """Return the values of a study file over those of the file that its ``_base_`` names, from its own folder."""
    if not path.is_file():
        raise FileNotFoundError(f'the study must be an existing file, but {path} is not; see configs/studies.')
    own = runpy.run_path(str(path))
    values = _read_values(path.parent / own['_base_']) if '_base_' in own else {}
    hidden = {k for k, v in own.items() if k.startswith('_') or callable(v) or isinstance(v, ModuleType)}
    return {**values, **{key: value for key, value in own.items() if key not in hidden}}


def _arm(name: str, value: Any, path: Path) -> Arm:
    value = {'overrides': value} if isinstance(value, (list, tuple)) else dict(value)
    known = {f.name for f in fields(Arm)} - {'name'}
    if value.keys() - known:
        raise ValueError(f'{path}: the arm {name!r} may set {sorted(known)}, got {sorted(value.keys() - known)}.')
    value.update((key, tuple(value[key])) for key in ('bases', 'seeds') if key in value)
    value['overrides'] = st.parse_overrides(value.get('overrides', {}))
    return Arm(name, **value)


def expand(
    study: Study,
    composer: Composer,
    root: Path,
    options: Mapping[str, Any] | None = None,
    known_files: dict[str, list] | None = None,
    arms: Sequence[Arm] | None = None,
    environment: Mapping[str, Any] | None = None,
) -> list[Run]:
    """Return the runs of a study, in the order in which they should be trained.

    Args:
        study, arms: what to expand, all arms or some of them.
        composer: the config library.
        root: folder that relative config paths start from.
        options: ``{dotted key: value}`` of this machine, such as ``data_root`` or the number of loader workers.
        known_files: see :func:`mmdefect.experiments.settings.hash_files`.
        environment: `code` and `versions` that train; part of the key, but for what the study tolerates.
    """
    environment = dict(environment or {})
    decides = {name: value for name, value in environment.items() if name not in study.tolerates}
    base_file, options = root / study.base, dict(options or {})
    base, _ = composer.compose(st.overridden(composer.read(base_file), options), base_file)
    base_flat = st.with_effect(base)
    # The checkpoint that is tested is part of the run; the usual rule is left out, so that known keys stay.
    chosen_by = [] if study.rule == USUAL_RULE else [asdict(study.rule)]
    hashes: dict[str, str] = {}
    runs = {}
    for position, arm in enumerate(study.arms):
        for seed in study.seeds_of(arm) if arms is None or arm in arms else ():
            settings = _laid_over(composer, composer.read(base_file), study.bases, root, arm.name, seed)
            common = _of_seed(study.overrides, seed)
            settings = _laid_over(composer, st.overridden(settings, common), arm.bases, root, arm.name, seed)
            if study.iterations:
                st.set_budget(settings, study.iterations, study.val_interval)
            own_seed = seed + arm.seed_offset
            last = {**_of_seed(arm.overrides, seed), **options, st.SEED: own_seed}
            composed, text = composer.compose(st.overridden(settings, last), base_file)
            flat = st.with_effect(composed)
            _check_effect({**common, **last}, flat, arm.name)
            texts = {name: value for name, value in st.flatten(composed).items() if isinstance(value, str)}
            data_roots = {value for name, value in texts.items() if name.split('.')[-1] == 'data_root'}
            inputs = _hash_inputs(texts, data_roots, hashes, known_files, composer.files, composed)
            # A file named in the settings counts by its content and not by its place.
            content = {k: inputs.get(value, value) if isinstance(value, str) else value for k, value in flat.items()}
            roots = sorted({inputs[value] for value in data_roots if value in inputs})
            key = st.digest([content, roots, own_seed, *chosen_by, *([decides] if decides else [])])
            # One seed of every arm of a priority, then the next seed: a study that is stopped has its arms equally far.
            difference = st.difference(base_flat, flat)
            runs[arm.priority, seed, position] = Run(
                key, arm, own_seed, composed, text, difference, inputs, environment.get('code', '')
            )
    if not runs:
        raise ValueError(f'the arms must be trained with one of the seeds {list(study.seeds)} at least, but none is.')
    return [runs[order] for order in sorted(runs)]


def _laid_over(composer: Composer, settings: Any, bases: Sequence[str], root: Path, arm: str, seed: int) -> Any:
    """Return the settings with config files laid over them, in order."""
    for file in (root / path.replace('{seed}', str(seed)) for path in bases):
        if not file.is_file():
            remedy = 'make it as the study file says, or leave the arm out with --arms or --priority'
            raise FileNotFoundError(f'arm {arm!r} must have its settings, but {file} is not there; {remedy}.')
        settings = st.merge(settings, composer.read(file))
    return settings


def _of_seed(overrides: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Put the seed into the texts that ask for it."""
    return {k: v.replace('{seed}', str(seed)) if isinstance(v, str) else v for k, v in overrides.items()}


def _check_effect(overrides: Mapping[str, Any], flat: Mapping[str, Any], arm: str) -> None:
    """Reject overrides of single values without effect; places in lists may have moved and are not looked at."""
    for key, value in overrides.items():
        in_list = any(part.isdigit() for part in key.split('.'))
        if isinstance(value, (str, int, float)) and not in_list and flat.get(key, value) != value:
            found = f'the composed config says {flat[key]!r}, which comes from a top-level setting; override that one'
            raise ValueError(f'the override {key} = {value!r} of the arm {arm!r} must have an effect, but {found}.')


def _hash_inputs(
    texts: Mapping[str, str],
    roots: set[str],
    hashes: dict[str, str],
    known_files: dict[str, list] | None,
    files: Callable[[dict[str, Any]], list[Path]] | None,
    composed: dict[str, Any],
) -> dict[str, str]:
    """Hash everything on disk that the settings name: data, split files, donor libraries, weights.

    Of a root of data the files count that the run reads, not what lies beside them. Where that is not known all count,
    but of the split files those that the settings name: another study may add its own.
    """
    values = {v for k, v in texts.items() if k != 'work_dir' and '\n' not in v and len(v) < 4096}
    named = {Path(value).name for value in values}
    inputs = {}
    for value in sorted(text for text in values if ('/' in text or text in roots) and Path(text).exists()):
        without = _split_files(Path(value)) - named if value in roots else set()
        read = sorted(f for f in files(composed) if f.is_relative_to(value)) if files and value in roots else None
        known_as = st.digest([value, *sorted(without)] if read is None else [value, *map(str, read)])
        if known_as not in hashes and read is None:
            hashes[known_as] = st.hash_files(Path(value), known_files, without)
        elif known_as not in hashes:
            contents = [[f.relative_to(value).as_posix(), st.hash_files(f, known_files)] for f in read]
            hashes[known_as] = st.digest(contents)
        inputs[value] = hashes[known_as]
    return inputs


def _split_files(root: Path) -> set[str]:
    """Return the names of the split files in a folder; they say what they are in their first line or two."""
    names = set()
    for file in root.glob('*.json'):
        with file.open('rb') as stream:
            if SPLIT_FORMAT.search(stream.read(4096)):
                names.add(file.name)
    return names
