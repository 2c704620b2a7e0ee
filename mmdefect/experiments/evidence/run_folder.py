"""What the folder of a run holds (absent parts stay empty), and the results of several runs with intervals."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy import ndarray

from mmdefect.experiments import logs
from mmdefect.experiments.evidence.counts import LOG_TOLERANCE, Counts, Truth, count_predictions, paired_folders
from mmdefect.experiments.evidence.counts import metrics as count_metrics
from mmdefect.experiments.states import PARTS_NAME, STATE_NAME, read_state
from mmdefect.experiments.statistics import Interval, image_interval
from mmdefect.files import read_json
from mmdefect.visualization.overlay import default_palette

Curves = dict[str, list[tuple[int, float]]]
MEANS = ('fg_mIoU', 'fg_mAcc', 'fg_mF1')
WITH_BACKGROUND = ('mIoU', 'mAcc', 'aAcc')
_WORDS = {'fg_mIoU': 'fg mIoU', 'fg_mAcc': 'fg recall', 'fg_mF1': 'fg F1', 'Acc': 'recall', 'Precision': 'precision'}
_PREDICTION_FOLDERS = ('test', 'pred', 'predictions')
_TEST_LOGS = ('test/test_log.txt', 'test_log.txt')
#: What training and testing leave where no batch has put it in order: timestamp folders with the logs of each.
_OWN_TRACES = (PARTS_NAME, 'curves.json', '*/vis_data/scalars.json')
_ENVIRONMENT = re.compile(
    r'^ {4}(sys\.platform|Python|CUDA available|GPU [\d,]+|PyTorch|TorchVision|OpenCV|MMEngine|seed): (.*)$',
    re.MULTILINE,
)


@dataclass(frozen=True)
class SearchPlaces:
    """Where images and labels of the test set may be."""

    data_root: Path | None = None  # folder of the data set
    images: Path | None = None  # folder of the test images, instead of a config
    labels: Path | None = None  # folder of their label maps, paired by file name
    #: class names, the background first; by default those of the config or of the test log
    classes: tuple[str, ...] = ()
    from_config: Callable[[Path], Truth] | None = None  # gives the test set of a config file

    def find(self, config: Path | None, classes: tuple[str, ...]) -> Truth | None:
        """Return the test set of a run from its config and the class names of its log; ``None`` if there is none."""
        images, labels = self.images, self.labels
        if images is None and config is not None and self.from_config is not None:
            return self.from_config(config)
        if images is None and self.data_root is not None:
            images, labels = self.data_root / 'img_dir' / 'test', self.data_root / 'ann_dir' / 'test'
        if images is None or labels is None:
            return None
        names = self.classes or classes
        if not names:
            words = 'neither a config nor a test log has them; give --classes, the background first'
            raise ValueError(f'the class names must be known to read {labels}, but {words}.')
        return paired_folders(images, labels, names, default_palette(len(names)))


@dataclass
class RunFolder:
    """One run."""

    name: str  # for titles
    classes: tuple[str, ...] = ()  # class names, the background first; empty if unknown
    test: dict[str, float | None] = field(default_factory=dict)  # metrics of the test log, in percent
    training: Curves = field(default_factory=dict)  # `{key: [(iteration, value), ...]}` of losses and learning rate
    validation: Curves = field(default_factory=dict)  # `{key: [(iteration, value), ...]}`
    verdict: str = ''  # on parts, what the test log ends with
    best: int | None = None  # iteration of the tested checkpoint, if known
    truth: Truth | None = None  # the test set, if it was found
    counts: Counts | None = None  # counts of each test image; `None` without predictions or labels
    confusion: ndarray | None = None  # `(K, K)`, row = label, column = prediction
    predictions: Path | None = None  # folder of the predicted label maps
    curves: dict[str, Any] = field(default_factory=dict)  # `test/curves.json`; empty without score histograms
    config: str = ''  # text of the config
    environment: dict[str, str] = field(default_factory=dict)  # what the training log says about versions and hardware
    notes: list[str] = field(default_factory=list)  # what is missing or odd, one sentence each


def find_runs(folder: Path) -> list[Path]:
    """Return the run folders in a folder, which may be one itself: those with a state, a test log or predictions."""
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
        'PNGs named test or pred, or what tools/train.py and tools/test.py leave), but has none; give the work dir of '
        'a run, a project or a study.'
    )


def load_run(folder: Path, name: str, places: SearchPlaces) -> RunFolder:
    """Read everything a run folder holds; ``places`` say where its test set may be."""
    run = RunFolder(name)
    log, missing = read_test_log(folder)
    if log is None:
        run.notes.append(missing)
    else:
        run.test, run.classes, run.verdict = log.metrics(), tuple(log.classes), log.verdict
    _read_curves(folder, run)
    config = next((path for part in ('train', '.', 'test') for path in sorted((folder / part).glob('*.py'))), None)
    run.config = config.read_text(encoding='utf-8') if config else ''
    run.predictions = next((folder / n for n in _PREDICTION_FOLDERS if any((folder / n).rglob('*.png'))), None)
    run.truth = places.find(config, run.classes) if run.predictions else None
    if run.truth is not None:
        run.counts, run.confusion = count_predictions(run.predictions, run.truth)
        run.classes = run.truth.classes
    elif run.predictions is None:
        run.notes.append('no predictions: test with --out to get counts, intervals and the gallery.')
    else:
        run.notes.append('the test set was not found: give --data-root to get counts, intervals and the gallery.')
    state = read_state(folder)
    run.best = (state.best or {}).get('iter') if state else None
    curves = next((c for c in (folder / 'test' / 'curves.json', folder / 'curves.json') if c.is_file()), None)
    run.curves = read_json(curves) if curves else {}
    paths = logs.console_logs(folder / 'train') + sorted([*(folder / 'train').glob('*/*.log'), *folder.glob('*/*.log')])
    text = paths[-1].read_text(encoding='utf-8', errors='replace')[:60000] if paths else ''
    run.environment = {key: value.strip() for key, value in _ENVIRONMENT.findall(text)}
    return run


def _is_run(folder: Path) -> bool:
    marked = any((folder / name).is_file() for name in (STATE_NAME, *_TEST_LOGS))
    marked = marked or any(any((folder / name).glob('*.png')) for name in _PREDICTION_FOLDERS)
    return marked or any(next(folder.glob(trace), None) for trace in _OWN_TRACES)


def read_test_log(folder: Path) -> tuple[logs.TestLog | None, str]:
    """Return the test of a folder, or why there is none: from what a batch has kept, else from the tools' own logs."""
    kept = [folder / name for name in _TEST_LOGS if (folder / name).is_file()]
    said = 'no test log.'
    for path in kept[:1] or sorted(folder.glob('*/*.log'), key=lambda path: path.name, reverse=True):
        try:
            return logs.parse_test_log(path.read_text(encoding='utf-8', errors='replace')), ''
        except ValueError as err:
            said = f'{path.relative_to(folder)}: {err}'
    return None, said


def _read_curves(folder: Path, run: RunFolder) -> None:
    alone = folder / 'scalars.json'
    paths = logs.training_logs(folder / 'train') or logs.training_logs(folder) or ([alone] if alone.is_file() else [])
    if not paths:
        run.notes.append('no scalar log: no learning curves.')
    contents = [logs.read_scalars(path, run.notes.append) for path in paths]
    training: dict[str, dict[int, float]] = {}
    for record in (record for records in contents for record in records if 'lr' in record or 'iter' in record):
        for key, value in record.items():
            if key not in logs.BOOKKEEPING and isinstance(value, (int, float)):
                training.setdefault(key, {})[record['step']] = float(value)
    run.training = {key: sorted(values.items()) for key, values in training.items()}
    for step, found in logs.validations(contents).items():
        for key, value in found.items():
            if isinstance(value, (int, float)):
                run.validation.setdefault(key, []).append((step, float(value)))


def in_words(key: str) -> str:
    """Return a metric in words: ``Acc.broken`` is the recall of broken."""
    kind, dot, name = key.partition('.')
    return f'{name} {_WORDS.get(kind, kind)}' if dot else _WORDS.get(key, key)


@dataclass(frozen=True)
class Results:
    """Numbers of all runs."""

    runs: tuple[RunFolder, ...]  # in the order of the page
    intervals: dict[str, dict[str, Interval]]  # `{run: {metric: interval}}` of the runs with counts
    notes: tuple[str, ...]  # what a reader must know, one sentence each

    def best(self) -> RunFolder | None:
        """Return the run with the best foreground mIoU; ``None`` if no run has one."""
        values = [(self.value(run, 'fg_mIoU'), run) for run in self.runs]
        known = [(value, run) for value, run in values if value is not None and math.isfinite(value)]
        return max(known, key=lambda pair: pair[0])[1] if known else None

    def interval(self, run: RunFolder, metric: str) -> Interval | None:
        """Return the interval of a metric, if the run has counts."""
        return self.intervals.get(run.name, {}).get(metric)

    def value(self, run: RunFolder, metric: str) -> float | None:
        """Return a metric from the counts, or else from the log."""
        interval = self.interval(run, metric)
        return interval.value if interval is not None else run.test.get(metric)

    def defect_classes(self) -> list[str]:
        """Return the names of the defect classes of all runs."""
        return list(dict.fromkeys(name for run in self.runs for name in run.classes[1:]))

    def columns(self) -> list[str]:
        """Return the columns of the table: those that some run has; further metrics of the logs come last."""
        kinds = ('IoU', 'Acc', 'Precision')
        columns = [*MEANS, *(f'{kind}.{c}' for c in self.defect_classes() for kind in kinds), *WITH_BACKGROUND]
        present = [key for key in columns if any(self.value(run, key) is not None for run in self.runs)]
        logged = dict.fromkeys(key for run in self.runs for key, value in run.test.items() if value is not None)
        background = {f'{kind}.{run.classes[0]}' for run in self.runs if run.classes for kind in (*kinds, 'F1')}
        return present + [key for key in logged if key not in present and key not in background]

    def is_of_defects(self, metric: str) -> bool:
        """Tell whether a metric leaves the background out."""
        kind, _, name = metric.partition('.')
        return metric in MEANS or (kind in ('IoU', 'Acc', 'Precision', 'F1') and name in self.defect_classes())


def make_results(runs: Sequence[RunFolder], resamples: int = 1000) -> Results:
    """Compute the metrics of all runs and check them against their logs."""
    intervals, notes = {}, []
    for run in runs:
        if run.counts is None:
            continue
        values, classes = run.counts.values, run.counts.classes
        table = intervals[run.name] = {}
        for key in count_metrics(values.sum(0), classes):
            table[key] = image_interval(
                values, lambda n, key=key, classes=classes: count_metrics(n, classes)[key], resamples
            )
        logged = {key: run.test[key] for key in table if run.test.get(key) is not None and math.isfinite(run.test[key])}
        off = [key for key, value in logged.items() if not abs(value - table[key].value) <= LOG_TOLERANCE]
        if off:
            first = f'{off[0]}: {logged[off[0]]:.2f} in the log, {table[off[0]].value:.2f} counted'
            lesson = 'they belong to different tests or labels'
            notes.append(f'{run.name}: the predictions do not give the logged metrics ({first}); {lesson}.')
        undefined = [c for c in classes[1:] if not math.isfinite(table[f'IoU.{c}'].value)]
        if undefined:
            lesson = 'its IoU is undefined and left out of the means'
            notes.append(f'{run.name}: no pixel of {", ".join(undefined)} is labelled or predicted; {lesson}.')
    return Results(tuple(runs), intervals, tuple(notes))
