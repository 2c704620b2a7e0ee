"""What the folder of a run holds: metrics, curves, counts, config, environment. Absent parts stay empty."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy import ndarray

from mmdefect.experiments.evidence.counts import Counts, Truth, count_predictions, paired_folders
from mmdefect.experiments.logs import (
    BOOKKEEPING,
    console_logs,
    parse_test_log,
    read_scalars,
    training_logs,
    validations,
)
from mmdefect.experiments.states import STATE_NAME, read_state
from mmdefect.files import read_json
from mmdefect.visualization.overlay import default_palette

Curves = dict[str, list[tuple[int, float]]]
_PREDICTION_FOLDERS = ('test', 'pred', 'predictions')
_TEST_LOGS = ('test/test_log.txt', 'test_log.txt')
_ENVIRONMENT = re.compile(
    r'^ {4}(sys\.platform|Python|CUDA available|GPU [\d,]+|PyTorch|TorchVision|OpenCV|MMEngine|seed): (.*)$',
    re.MULTILINE,
)


@dataclass(frozen=True)
class SearchPlaces:
    """Where images and labels of the test set may be.

    Attributes:
        data_root: folder of the data set.
        images: folder of the test images, instead of a config.
        labels: folder of their label maps, paired by file name.
        classes: class names, the background first; by default those of the config or of the test log.
        from_config: gives the test set of a config file.
    """

    data_root: Path | None = None
    images: Path | None = None
    labels: Path | None = None
    classes: tuple[str, ...] = ()
    from_config: Callable[[Path], Truth] | None = None

    def find(self, config: Path | None, classes: tuple[str, ...]) -> Truth | None:
        """Return the test set of a run from its config and the class names of its log; ``None`` if nothing leads there.

        Raises:
            ValueError: if folders are given, but no class names are known.
        """
        images, labels = self.images, self.labels
        if images is None and config is not None and self.from_config is not None:
            return self.from_config(config)
        if images is None and self.data_root is not None:
            images, labels = self.data_root / 'img_dir' / 'test', self.data_root / 'ann_dir' / 'test'
        if images is None or labels is None:
            return None
        names = self.classes or classes
        if not names:
            raise ValueError(
                f'the class names must be known to read {labels}, but neither a config nor a test log has them; '
                'give --classes, the background first.'
            )
        return paired_folders(images, labels, names, default_palette(len(names)))


@dataclass(frozen=True)
class RunFolder:
    """One run.

    Attributes:
        name: for titles.
        classes: class names, the background first; empty if unknown.
        test: metrics of the test log, in percent.
        training: ``{key: [(iteration, value), ...]}`` of losses and learning rate.
        validation: ``{key: [(iteration, value), ...]}``.
        best: iteration of the tested checkpoint, if known.
        truth: the test set, if it was found.
        counts: counts of each test image; ``None`` without predictions or labels.
        confusion: ``(K, K)``, row = label, column = prediction.
        predictions: folder of the predicted label maps.
        curves: content of ``test/curves.json``; empty if the test recorded no score histograms.
        config: text of the config.
        environment: what the training log says about versions and hardware.
        notes: what is missing or odd, one sentence each.
    """

    name: str
    classes: tuple[str, ...] = ()
    test: dict[str, float | None] = field(default_factory=dict)
    training: Curves = field(default_factory=dict)
    validation: Curves = field(default_factory=dict)
    best: int | None = None
    truth: Truth | None = None
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


def load_run(folder: Path, name: str, places: SearchPlaces) -> RunFolder:
    """Read everything a run folder holds; ``places`` say where its test set may be."""
    notes: list[str] = []
    test, classes = _read_test(folder, notes)
    training, validation = _read_curves(folder, notes)
    config = next((path for part in ('train', '.', 'test') for path in sorted((folder / part).glob('*.py'))), None)
    predictions = next((folder / n for n in _PREDICTION_FOLDERS if any((folder / n).rglob('*.png'))), None)
    truth = counts = confusion = None
    if predictions is None:
        notes.append('no predictions: test with --out to get counts, intervals and the gallery.')
    else:
        truth = places.find(config, classes)
        if truth is None:
            notes.append('the test set was not found: give --data-root to get counts, intervals and the gallery.')
        else:
            (counts, confusion), classes = count_predictions(predictions, truth), truth.classes
    state = read_state(folder)
    curves = folder / 'test' / 'curves.json'
    return RunFolder(
        name=name,
        classes=classes,
        test=test,
        training=training,
        validation=validation,
        best=(state.best or {}).get('iter') if state else None,
        truth=truth,
        counts=counts,
        confusion=confusion,
        predictions=predictions,
        curves=read_json(curves) if curves.is_file() else {},
        config=config.read_text(encoding='utf-8') if config else '',
        environment=_environment(folder / 'train'),
        notes=tuple(notes),
    )


def _is_run(folder: Path) -> bool:
    marked = any((folder / name).is_file() for name in (STATE_NAME, *_TEST_LOGS))
    return marked or any(any((folder / name).glob('*.png')) for name in _PREDICTION_FOLDERS)


def _read_test(folder: Path, notes: list[str]) -> tuple[dict[str, float | None], tuple[str, ...]]:
    name = next((name for name in _TEST_LOGS if (folder / name).is_file()), None)
    if name is None:
        notes.append('no test log.')
        return {}, ()
    try:
        log = parse_test_log((folder / name).read_text(encoding='utf-8', errors='replace'))
    except ValueError as err:
        notes.append(f'{name}: {err}')
        return {}, ()
    return log.metrics(), tuple(log.classes)


def _read_curves(folder: Path, notes: list[str]) -> tuple[Curves, Curves]:
    alone = folder / 'scalars.json'
    logs = training_logs(folder / 'train') or training_logs(folder) or ([alone] if alone.is_file() else [])
    if not logs:
        notes.append('no scalar log: no learning curves.')
        return {}, {}
    contents = [read_scalars(path, notes.append) for path in logs]
    training: dict[str, dict[int, float]] = {}
    for record in (record for records in contents for record in records if 'lr' in record or 'iter' in record):
        for key, value in record.items():
            if key not in BOOKKEEPING and isinstance(value, (int, float)):
                training.setdefault(key, {})[record['step']] = float(value)
    validation: Curves = {}
    for step, metrics in validations(contents).items():
        for key, value in metrics.items():
            if isinstance(value, (int, float)):
                validation.setdefault(key, []).append((step, float(value)))
    return {key: sorted(values.items()) for key, values in training.items()}, validation


def _environment(train_dir: Path) -> dict[str, str]:
    logs = console_logs(train_dir) + sorted(train_dir.glob('*/*.log'))
    text = logs[-1].read_text(encoding='utf-8', errors='replace')[:60000] if logs else ''
    return {key: value.strip() for key, value in _ENVIRONMENT.findall(text)}
