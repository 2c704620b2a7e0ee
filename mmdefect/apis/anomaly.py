"""Anomaly detection by density: fit, test, predict, localise, explain. What ``tools/anomaly.py`` calls."""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import print_log
from torch import Tensor
from torch.nn import functional

from mmdefect.apis.anomaly_eval import UNTRAINED_AVERAGE, DetectorResult, choose_categories, run_test, test_images
from mmdefect.apis.anomaly_fit import detector_of_config, fit_detector, iter_batches, read_image
from mmdefect.apis.anomaly_report import category_figures, embedding_figure, heat_images, write_page, write_tables
from mmdefect.apis.config import load_config
from mmdefect.datasets.good_images import list_good_images
from mmdefect.datasets.samples import IMAGE_SUFFIXES
from mmdefect.experiments.tables import csv_table
from mmdefect.files import write_text
from mmdefect.functional.density import ScoreScale
from mmdefect.functional.heat_maps import decide_heat
from mmdefect.models.anomaly_detector import AnomalyDetector
from mmdefect.visualization.overlay import overlay_heat

UNTRAINED = 'untrained backbone'
TRAINED = 'CutPaste'


def fit_anomaly(
    config: str | Path | Config,
    data_root: str | Path | None = None,
    category: str | None = None,
    checkpoint: str | None = None,
    cfg_options: dict | None = None,
    recipes: Sequence[str] = (),
    seed: int = 0,
    settings: dict | None = None,
    division: str | None = None,
    **fit,
) -> AnomalyDetector:
    """Fit a detector on the good training images.

    Args:
        config, cfg_options, recipes: CutPaste config, composed or for :func:`mmdefect.apis.config.load_config`.
        data_root: folder of categories, a category, or a folder of good images; the config's if None.
        category: below it.
        division: of VisA as downloaded, see :func:`~mmdefect.datasets.mvtec.read_division`.
        checkpoint: of the training; None takes the backbone as training would find it.
        seed: of random weights, folds and sampled points.
        settings: fields of :class:`~mmdefect.models.anomaly_detector.DetectorSettings`.
        **fit: arguments of :func:`~mmdefect.apis.anomaly_fit.fit_detector`.
    """
    cfg = config if isinstance(config, Config) else load_config(config, cfg_options, recipes)
    category = category or cfg.get('category')
    paths = list_good_images(str(data_root or cfg.data_root), category, division or cfg.get('division'))
    names = dict(config=Path(cfg.filename or '').name, checkpoint=None if checkpoint is None else Path(checkpoint).name)
    facts = dict(category=category, arm=TRAINED if checkpoint else UNTRAINED, **names)
    detector = detector_of_config(cfg, checkpoint, seed, facts=facts, **(settings or {}))
    return fit_detector(detector, paths, seed=seed, **fit)


def evaluate_anomaly(
    config: str | Path | Config,
    data_root: str | Path,
    categories: Sequence[str],
    out: str | Path,
    checkpoint: str | None = None,
    layer: str | None = None,
    precision: str = 'fp32',
    report: bool = True,
    results: list[DetectorResult] | None = None,
    **fit,
) -> list[dict[str, object]]:
    """Fit and test categories, each test image read once by each arm.

    The untrained backbone is always one of the arms, unless its weights cannot be had here: then the notes and the log
    say so, and the trained one stands alone.

    Args:
        config, **fit: arguments of :func:`fit_anomaly`.
        data_root: folder of the categories.
        categories: names, or ``['all']``.
        out: folder for tables, figures, page and the fitted detectors.
        checkpoint: path with ``{category}`` in it where each has its own; None tests the untrained backbone alone.
        layer: for Grad-CAM.
        precision: of the backbone in the test.
        report: also make figures and the page.
        results: gets what each arm gave on each category, without heat maps.
    """
    out = Path(out)
    names = choose_categories(str(data_root), categories)
    checkpoints = {name: None if checkpoint is None else checkpoint.format(category=name) for name in names}
    missing = [path for path in checkpoints.values() if path is not None and not Path(path).is_file()]
    if missing:
        raise FileNotFoundError(
            f'`--checkpoint` must exist for each category, but {missing[0]} does not; write '
            '{category} where the name of the category stands, and train the missing ones.'
        )
    missing_weights = ''
    # before hours of work, not after
    samples = {name: test_images(str(data_root), name, fit.get('division')) for name in names}
    arms = {UNTRAINED: None, TRAINED: checkpoint}
    if checkpoint is not None:
        options = fit.get('cfg_options'), fit.get('recipes', ())
        try:
            detector_of_config(config if isinstance(config, Config) else load_config(config, *options))
        except FileNotFoundError as err:
            missing_weights = f'There is no row of the {UNTRAINED}: {err}'
            print_log(missing_weights, 'current', logging.WARNING)
            del arms[UNTRAINED]
    results = [] if results is None else results
    figures: dict[str, bytes] = {}
    galleries: dict[str, list] = {}
    for name in names:
        own, detector = [], None
        for arm in arms if checkpoint is not None else [UNTRAINED]:
            path = checkpoints[name] if arm == TRAINED else None
            detector = fit_anomaly(config, data_root, name, path, progress=f'{name}: {arm}', **fit)
            detector.save(out / 'models' / f'{name}_{"cutpaste" if path else "untrained"}.pth')
            own.append(run_test(detector, samples[name], name, arm, precision=precision))
        results += [replace(r, heat=None) for r in own]  # heat maps of all categories would fill the memory
        write_tables(results, out)
        if report:
            figures |= category_figures(own, detector.scales['score'].threshold)
            normal = list_good_images(str(data_root), name, fit.get('division'))
            figures[f'{name}_tsne'] = embedding_figure(detector, own[-1], normal)
            galleries[name] = heat_images(detector, own[-1], layer)
    rows = write_tables(results, out)
    if report:
        write_page(results, rows, figures, galleries, _notes(checkpoint, missing_weights), out)
    return rows


def _notes(checkpoint: str | None, missing_weights: str = '') -> list[str]:
    """Return what must be said below a table."""
    notes = [
        f'"{UNTRAINED}" is the same backbone, density and score without any CutPaste training. An ImageNet ResNet-18 '
        f'without it reaches {UNTRAINED_AVERAGE} % image AUROC on average over MVTec AD; a claim must beat that row.',
        'paper: image AUROC of CutPaste 3-way (Li et al., CVPR 2021) on the MVTec AD category of that name; paddle, '
        'Lieberk, pytorch-cutpaste: the tables of these implementations. That of paddle was chosen on the test images.',
    ]
    if missing_weights:
        notes.append(missing_weights)
    if checkpoint is None:
        notes.append('No checkpoint was given: there is no CutPaste row.')
    return notes


def list_inputs(inputs: Sequence[str | Path]) -> list[str]:
    """Return image files of files and folders (with their subfolders), sorted."""
    found: list[str] = []
    for item in map(Path, inputs):
        if item.is_dir():
            found += sorted(str(p) for p in item.rglob('*') if p.suffix.lower() in IMAGE_SUFFIXES)
        elif item.is_file():
            found.append(str(item))
        else:
            raise ValueError(f'inputs must be image files or folders, but {item} does not exist; correct the path.')
    if not found:
        places, suffixes = ', '.join(map(str, inputs)), ', '.join(IMAGE_SUFFIXES)
        raise ValueError(f'inputs must hold images ({suffixes}), but none was found in {places}.')
    return found


def _predictions(
    detector: AnomalyDetector, paths: Sequence[str], mode: str | None, precision: str, title: str
) -> Iterator[tuple[str, float, float, bool, Tensor | None]]:
    """Yield path, raw score, score on the scale, decision and heat map on its scale of each image."""
    for start, images in iter_batches(paths, detector.settings.size_hw, 16, title):
        scores, heat = detector.score_images(images, mode, precision)
        values, heat = detector.on_scale(scores, heat)
        decisions = (values > detector.scales['score'].threshold).tolist()
        for i in range(len(images)):
            own = None if heat is None else heat[i]
            yield paths[start + i], float(scores[i]), float(values[i]), decisions[i], own


def predict_anomaly(
    model: str | Path,
    inputs: Sequence[str | Path],
    out: str | Path,
    mode: str | None = None,
    precision: str = 'fp32',
    threshold: float | None = None,
) -> list[dict[str, object]]:
    """Score files or folders with a fitted detector: ``predictions.csv``, and each image with its heat map.

    ``mode`` asks for ``'exact'`` or ``'fast'`` heat maps; ``threshold`` takes the place of the detector's own, on its
    scale. Returns the rows of the table.
    """
    detector = AnomalyDetector.load(model)
    if threshold is not None:
        state = {**detector.scales['score'].state(), 'threshold': float(threshold)}
        detector.scales['score'] = ScoreScale(**state)
    paths, out = list_inputs(inputs), Path(out)
    names = _names(paths)
    rows = []
    for path, score, value, decision, heat in _predictions(detector, paths, mode, precision, 'predicting'):
        row = dict(image=path, score=round(score, 6), normalized=round(value, 4), anomaly=int(decision), heat_map='')
        if heat is not None:
            image = read_image(path, detector.settings.size_hw)
            row['heat_map'] = f'heat/{names[path]}.png'
            _write_image(out / row['heat_map'], overlay_heat(image, heat.numpy(), 0.3, 1.5)[..., ::-1])
        rows.append(row)
    write_text(out / 'predictions.csv', csv_table(rows))
    return rows


def localize_anomaly(
    model: str | Path,
    inputs: Sequence[str | Path],
    out: str | Path,
    mode: str | None = None,
    precision: str = 'fp32',
    threshold: float | None = None,
    pseudo_labels: bool = True,
) -> list[dict[str, object]]:
    """Write heat maps and, for segmentation training, label maps made of them.

    ``heat/*.png`` are 16-bit, 10,000 for heat 1, at the size of the image file. ``ann_dir/*.png`` hold 1 where the heat
    is above the threshold (by default the detector's own) and 0 elsewhere: class ids, as ``FolderDefectDataset`` and
    the WTA layout read them. Images that are no anomaly have none. Returns the rows of ``localization.csv``.
    """
    detector = AnomalyDetector.load(model)
    if detector.mode is None:
        raise ValueError(f'{model} must have heat maps to localise; fit it with --localize fast or exact.')
    threshold = detector.scales['score'].threshold if threshold is None else threshold
    paths, out = list_inputs(inputs), Path(out)
    names = _names(paths)
    rows = []
    for path, _, value, _, heat in _predictions(detector, paths, mode, precision, 'localising'):
        height, width = cv2.imread(path, cv2.IMREAD_GRAYSCALE).shape
        size = dict(size=(height, width), mode='bilinear', align_corners=False)  # as in deployed models
        full = functional.interpolate(heat[None, None], **size)[0]
        full = decide_heat(full, torch.tensor(value).view(1, 1, 1))[0].numpy()
        _write_image(out / 'heat' / f'{names[path]}.png', np.clip(np.round(1e4 * full), 0, 65535).astype(np.uint16))
        label = (full > threshold).astype(np.uint8)
        if pseudo_labels:
            _write_image(out / 'ann_dir' / f'{names[path]}.png', label)
        hottest = round(float(full.max()), 4)
        rows.append(dict(image=path, normalized=round(value, 4), hottest=hottest, defect_pixels=int(label.sum())))
    write_text(out / 'localization.csv', csv_table(rows))
    return rows


def explain_anomaly(model: str | Path, inputs: Sequence[str | Path], layer: str, out: str | Path) -> list[str]:
    """Write for each image the image with the Grad-CAM of a layer; return the files."""
    detector, out = AnomalyDetector.load(model), Path(out)
    paths, written = list_inputs(inputs), []
    names = _names(paths)
    for start, images in iter_batches(paths, detector.settings.size_hw, 8, 'explaining'):
        for path, cam in zip(paths[start : start + len(images)], detector.explain(images, layer), strict=True):
            overlay = overlay_heat(read_image(path, detector.settings.size_hw), cam.numpy(), 0.15, 1.0)
            file = out / f'{names[path]}_{layer}.png'
            _write_image(file, overlay[..., ::-1])
            written.append(str(file))
    return written


def _names(paths: Sequence[str]) -> dict[str, str]:
    """Return a name for what is written of each image: its path below their common folder, without suffix."""
    common = os.path.commonpath([Path(p).parent for p in paths]) or '.'
    names = {p: Path(p).relative_to(common).with_suffix('').as_posix() for p in paths}
    if len(set(names.values())) < len(names):
        names = {p: Path(p).relative_to(common).as_posix().replace('.', '_') for p in paths}
    return names


def _write_image(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), image):
        raise OSError(f'{path} must be an image that can be written; choose another folder.')
