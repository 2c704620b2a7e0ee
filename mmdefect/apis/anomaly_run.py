"""Train, test, export and predict with one anomaly detector for each category: a batch that any engine runs.

Each category is a job of :mod:`mmdefect.experiments.batch`, whose training is the CutPaste training of its leaf config
and whose test is :func:`test_detector`. What was finished is not repeated; more iterations go on from the checkpoints
that are there, and other settings of the detector repeat the tests alone.
"""

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mmengine.config import Config

from mmdefect.apis.anomaly import evaluate_anomaly
from mmdefect.apis.anomaly_eval import choose_categories, row_of, table_text, test_images, with_averages
from mmdefect.compat import config_root
from mmdefect.datasets.good_images import list_good_images
from mmdefect.deployment import load_predictor
from mmdefect.deployment.decoding import read_image
from mmdefect.experiments.batch import Batch, Job, Tools, fingerprint
from mmdefect.experiments.engines import Engine
from mmdefect.experiments.job import POINTER
from mmdefect.experiments.run_batch import run_batch
from mmdefect.experiments.select import Rule
from mmdefect.experiments.states import read_state, write_state
from mmdefect.experiments.tables import csv_table
from mmdefect.files import read_json, write_json, write_text
from mmdefect.recipes import find_recipe

#: What the batch hands to the tests, and what each of these leaves, in its folder.
SETTINGS_FILE, ROWS_FILE = 'detector.json', 'rows.json'
LENGTH = 'train_cfg.max_iters'


def run_anomaly(
    config: str | Path,
    data_root: str | Path,
    out: str | Path,
    categories: Sequence[str] = ('all',),
    division: str | None = None,
    encoder: dict | None = None,
    iterations: int | None = None,
    test: Mapping | None = None,
    cfg_options: Sequence[str] = (),
    recipes: Sequence[str] = (),
    gpu_count: int = 0,
    engine: Engine | None = None,
    show: Callable[[str], None] = print,
) -> list[dict[str, object]]:
    """Run what is left of a batch and return the rows of its table, written to ``table.md`` and ``table.csv``.

    Args:
        config, recipes: CutPaste leaf and what is laid over it, the same for all categories.
        data_root, division: folder of the categories; of VisA as downloaded, who trains.
        out: folder of the batch.
        categories: names, or ``['all']``.
        encoder: config of a backbone that takes the place of the leaf's.
        iterations: length of the training; that of the leaf if None.
        test: further arguments of :func:`~mmdefect.apis.anomaly.evaluate_anomaly`, JSON values.
        cfg_options: ``key=value`` overrides.
        gpu_count, engine, show: see :func:`~mmdefect.experiments.run_batch.run_batch`.

    Raises:
        RuntimeError: if some category is not done; the others are in the table.
    """
    out, root, package = Path(out).absolute(), str(Path(data_root).absolute()), config_root('mmdefect')
    laid = tuple(str(find_recipe(name, [package])) for name in recipes)
    names = choose_categories(root, categories)
    for name in names:  # before hours of work, not after
        test_images(root, name, division), list_good_images(root, name, division)
    settings = dict(data_root=root, division=division, recipes=laid, **(test or {}))
    leaves = {name: out / 'configs' / f'{name}.py' for name in names}
    for name, leaf in leaves.items():
        text = leaf_text(Path(config).absolute(), root, name, division, out / SETTINGS_FILE, encoder)
        if not leaf.is_file() or leaf.read_text(encoding='utf-8') != text:
            write_text(leaf, text)
    options = [*cfg_options, *([f'{LENGTH}={iterations}'] if iterations else [])]
    paths = (package.parent / name for name in ('tools/train.py', 'tools/test.py', 'bash/find_best.py'))
    programs = Tools(*paths, sys.executable)
    jobs = tuple(Job(f'categories/{name}', leaf, name, laid) for name, leaf in leaves.items())
    batch = Batch(out.parent, out.name, jobs, gpu_count, programs, Rule('views/AUROC'), tuple(options))
    former = read_json(out / SETTINGS_FILE) if (out / SETTINGS_FILE).is_file() else None
    changed = json.loads(json.dumps(settings)) != former
    write_json(out / SETTINGS_FILE, settings)
    for job in jobs:
        go_on(batch, job, changed)
    states = run_batch(batch, show, engine)
    found = [batch.job_dir(job) / 'test' / ROWS_FILE for job in jobs]
    rows = [row for file in found if file.is_file() for row in read_json(file)]
    failed = [f'{state.job}: {state.error or state.status}' for state in states if state.status != 'done']
    if rows:
        rows = with_averages(rows)
        write_text(out / 'table.md', table_text(rows))
        write_text(out / 'table.csv', csv_table(rows))
    if failed:
        raise RuntimeError(f'each category must be done, but {"; ".join(failed)}. The same command goes on.')
    return rows


def leaf_text(
    config: Path, root: str, category: str, division: str | None, settings: Path, encoder: dict | None
) -> str:
    """Return the leaf config of a category."""
    lines = [
        f'# {category}: written by tools/anomaly.py run.',
        f'_base_ = [{str(config)!r}]',
        f'data_root = {root!r}',
        f'category = {category!r}',
        f'division = {division!r}',
        f"detector = '{{{{ fileDirname }}}}/../{settings.name}'",
    ]
    if encoder is not None:
        lines.append(f'model = dict(backbone=dict(_delete_=True, **{encoder!r}))')
        if not (encoder.get('init_cfg') or encoder.get('pretrained')):
            lines.append('custom_hooks = []  # random weights are not frozen at first')
    return '\n'.join(lines) + '\n'


def go_on(batch: Batch, job: Job, test_again: bool) -> None:
    """Let a finished job train on if only its length has grown, or test again."""
    folder = batch.job_dir(job)
    state = read_state(folder)
    if state is None or state.phase == 'train' or state.status == 'running':
        return
    now = fingerprint(job.config, batch.cfg_options, job.recipes)
    old, new = (_split_length(options) for options in (state.fingerprint['cfg_options'], now['cfg_options']))
    same = old[0] == new[0] and list(state.fingerprint['files'].values()) == list(now['files'].values())
    trained = max((int(p.stem.rpartition('_')[2]) for p in (folder / 'train' / 'ckpt').glob('iter_*.pth')), default=0)
    if same and new[1] is not None and new[1] > trained:
        for path in (folder / 'train' / 'ckpt').glob('iter_*.pth'):
            os.replace(path, folder / 'train' / path.name)
        write_text(folder / 'train' / POINTER, str(folder / 'train' / f'iter_{trained}.pth'))
        state.phase, state.status, state.fingerprint = 'train', 'pending', now
    elif same and test_again and state.phase == 'done':
        state.phase, state.status = 'test', 'pending'
    write_state(folder, state)


def test_detector(cfg: Config, checkpoint: str | Path, out: str | Path) -> dict[str, float]:
    """Fit the detector of a training, test it, export it, and predict the test images with the exported file.

    ``cfg.detector`` is the file of settings that :func:`run_anomaly` wrote. Below ``out``: what
    :func:`~mmdefect.apis.anomaly.evaluate_anomaly` writes, ``<category>.onnx`` and ``predictions.csv``.

    Raises:
        ValueError: if the exported file decides on an image otherwise than the test.
    """
    from mmdefect.apis.inference import export

    settings = read_json(Path(cfg.detector))
    settings.pop('recipes')  # the config is composed
    category, out = cfg.category, Path(out)
    results: list = []
    evaluate_anomaly(cfg, categories=[category], out=out, checkpoint=str(checkpoint), results=results, **settings)
    file, tested = out / f'{category}.onnx', results[-1]
    print(export(out / 'models' / f'{category}_cutpaste.pth', file, check=Path(tested.samples[0].img_path).parent))
    rows = []
    with load_predictor(file) as predictor:
        for sample, score in zip(tested.samples, tested.scores, strict=True):
            found = predictor.predict_batch([read_image(sample.img_path).pixels])[0]
            rows.append(dict(image=sample.img_path, type=sample.defect_type, score=round(found.image_score, 6)))
            rows[-1] |= dict(anomaly=int(found.is_defective), tested=int(score > tested.threshold))
    write_text(out / 'predictions.csv', csv_table(rows))
    other = [row['image'] for row in rows if row['anomaly'] != row['tested']]
    if other:
        raise ValueError(
            f'{file} must decide as the test did, but does not on {len(other)} images, such as {other[0]}.'
        )
    write_json(out / ROWS_FILE, [row_of(result) for result in results])
    numbers = '  '.join(f'{name}: {value:.4f}' for name, value in tested.metrics.items())
    print(f'Iter(test) [{len(rows)}/{len(rows)}]    {numbers}')  # what a batch reads
    return tested.metrics


def _split_length(options: Sequence[str]) -> tuple[list[str], int | None]:
    lengths = [int(option.partition('=')[2]) for option in options if option.startswith(f'{LENGTH}=')]
    return [option for option in options if not option.startswith(f'{LENGTH}=')], (lengths or [None])[-1]
