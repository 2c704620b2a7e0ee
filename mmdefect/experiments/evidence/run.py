"""What the folder of a run holds: metrics, curves, counts, config, environment. Absent parts stay empty."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy import ndarray

from mmdefect.experiments.evidence.counts import Counts
from mmdefect.experiments.evidence.truth import Truth, count_predictions
from mmdefect.experiments.records import (
    BOOKKEEPING,
    parse_test_log,
    read_json,
    read_scalars,
    training_logs,
    validations,
)
from mmdefect.experiments.states import STATE_NAME, read_state

_PREDICTION_FOLDERS = ('test', 'pred', 'predictions')
_TEST_LOGS = ('test/test_log.txt', 'test_log.txt')
_ENVIRONMENT = re.compile(
    r'^ {4}(sys\.platform|Python|CUDA available|GPU [\d,]+|PyTorch|TorchVision|OpenCV|MMEngine|seed): (.*)$',
    re.MULTILINE,
)


@dataclass(frozen=True)
class RunEvidence:
    """One run.

    Attributes:
        name: path relative to the folder that was searched.
        folder: where it lies.
        classes: class names, the background first; empty if unknown.
        test: metrics of the test log, in percent.
        training: ``{key: [(iteration, value), ...]}`` of losses and learning rate.
        validation: ``{key: [(iteration, value), ...]}``.
        best: iteration of the tested checkpoint, if known.
        counts: counts of each test image; ``None`` without predictions or labels.
        confusion: ``(K, K)``, row = label, column = prediction.
        predictions: folder of the predicted label maps.
        curves: content of ``test/curves.json``; empty if the test recorded no score histograms.
        config: text of the config.
        environment: what the training log says about versions and hardware.
        notes: what is missing or odd, one sentence each.
    """

    name: str
    folder: Path
    classes: tuple[str, ...] = ()
    test: dict[str, float | None] = field(default_factory=dict)
    training: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    validation: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    best: int | None = None
    counts: Counts | None = None
    confusion: ndarray | None = None
    predictions: Path | None = None
    curves: dict[str, Any] = field(default_factory=dict)
    config: str = ''
    environment: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def find_runs(folder: Path) -> list[Path]:
    """Return the run folders in a folder, which may be one itself: those with a state, a test log or predictions.

    Raises:
        FileNotFoundError: if there is none.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f'{folder} must be the folder of a run or of several, but there is no such folder.')
    if _is_run(folder):
        return [folder]
    for pattern in ('*', 'exp/*/*', '*/exp/*/*', '*/*'):
        found = sorted(path for path in folder.glob(pattern) if path.is_dir() and _is_run(path))
        if found:
            return found
    raise FileNotFoundError(
        f'{folder} must hold runs (a folder with state.json, test_log.txt, or a folder of predicted '
        'PNGs named test or pred), but has none; give the work dir of a run, a project or a study.'
    )


def load_run(folder: Path, name: str, truth_of: Callable[[Path, tuple[str, ...]], Truth | None]) -> RunEvidence:
    """Read everything a run folder holds.

    Args:
        folder: run folder.
        name: for titles.
        truth_of: gives the test set from the config file of the run (or the folder, without one) and the class names
            that the test log knows; ``None`` if it cannot be had.
    """
    notes: list[str] = []
    test, classes = _read_test(folder, notes)
    training, validation = _read_curves(folder, notes)
    config = _config_file(folder)
    predictions = next((folder / n for n in _PREDICTION_FOLDERS if any((folder / n).rglob('*.png'))), None)
    truth = truth_of(config or folder, classes) if predictions is not None else None
    counts = matrix = None
    if truth is not None and predictions is not None:
        counts, matrix = count_predictions(predictions, truth)
        classes = truth.classes
    elif predictions is None:
        notes.append('no predictions: test with --out to get counts, intervals and the gallery.')
    else:
        notes.append('the test set was not found: give --data-root to get counts, intervals and the gallery.')
    state = read_state(folder) if (folder / STATE_NAME).is_file() else None
    curves = folder / 'test' / 'curves.json'
    return RunEvidence(
        name,
        folder,
        classes,
        test,
        training,
        validation,
        ((state.best or {}).get('iter') if state else None),
        counts,
        matrix,
        predictions,
        read_json(curves) if curves.is_file() else {},
        config.read_text(encoding='utf-8') if config else '',
        _environment(folder),
        tuple(notes),
    )


def _is_run(folder: Path) -> bool:
    named = (STATE_NAME, *_TEST_LOGS)
    return any((folder / name).is_file() for name in named) or any(
        any((folder / n).glob('*.png')) for n in _PREDICTION_FOLDERS
    )


def _read_test(folder: Path, notes: list[str]) -> tuple[dict[str, float | None], tuple[str, ...]]:
    for name in _TEST_LOGS:
        if (folder / name).is_file():
            try:
                log = parse_test_log((folder / name).read_text(encoding='utf-8', errors='replace'))
            except ValueError as err:
                notes.append(f'{name}: {err}')
                return {}, ()
            rows = {f'{column}.{c}': value for c, row in log.classes.items() for column, value in row.items()}
            return {**log.summary, **rows}, tuple(log.classes)
    notes.append('no test log.')
    return {}, ()


def _read_curves(folder: Path, notes: list[str]) -> tuple[dict, dict]:
    logs = (
        training_logs(folder / 'train')
        or training_logs(folder)
        or [p for p in [folder / 'scalars.json'] if p.is_file()]
    )
    if not logs:
        notes.append('no scalar log: no learning curves.')
        return {}, {}
    contents = [read_scalars(path, notes.append) for path in logs]
    training: dict[str, dict[int, float]] = {}
    for records in contents:
        for record in records:
            if 'lr' in record or 'iter' in record:
                for key, value in record.items():
                    if key not in BOOKKEEPING and isinstance(value, (int, float)):
                        training.setdefault(key, {})[record['step']] = float(value)
    checked: dict[str, list[tuple[int, float]]] = {}
    for step, metrics in validations(contents).items():
        for key, value in metrics.items():
            if isinstance(value, (int, float)):
                checked.setdefault(key, []).append((step, float(value)))
    return {key: sorted(values.items()) for key, values in training.items()}, checked


def _config_file(folder: Path) -> Path | None:
    return next((path for part in ('train', '.', 'test') for path in sorted((folder / part).glob('*.py'))), None)


def _environment(folder: Path) -> dict[str, str]:
    logs = sorted((folder / 'train').glob('train_log_*.txt')) + sorted((folder / 'train').glob('*/*.log'))
    if not logs:
        return {}
    text = logs[-1].read_text(encoding='utf-8', errors='replace')[:60000]
    return {key: value.strip() for key, value in _ENVIRONMENT.findall(text)}
