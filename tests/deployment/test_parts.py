"""A folder predicted in parts is the folder that one process writes."""

from __future__ import annotations

import json

import cv2
import pytest

from mmdefect.deployment import load_predictor
from mmdefect.deployment.predict import JobSettings, predict, predict_in_parts, predict_to_folder
from mmdefect.deployment.sources import find_sources
from mmdefect.experiments.bulk import Workers
from tests.helpers.deployment import make_images, write_exported

SETTINGS = JobSettings(batch=2, overlay='.png')


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    return write_exported(tmp_path_factory.mktemp('model'))


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp('parts')
    for index, image in enumerate(make_images(7, 70, 90)):
        path = place / f'shift{index % 2}' / f'part_{index}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image[..., ::-1])
    (place / 'shift1' / 'torn.png').write_bytes((place / 'shift1' / 'part_1.png').read_bytes()[:60])
    return place


@pytest.fixture(scope='module')
def whole(model, folder, tmp_path_factory):
    out = tmp_path_factory.mktemp('whole') / 'out'
    predictor = load_predictor(model, threads=1)
    summary = predict_to_folder(predictor, find_sources([str(folder)]), out, SETTINGS, model)
    return summary, files_of(out)


def files_of(out):
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob('*') if path.is_file()}


@pytest.mark.parametrize(
    'workers',
    [Workers(), Workers(count=2, threads=1), pytest.param(Workers('ray', 2, threads=1), marks=pytest.mark.slow)],
    ids=['here', 'processes', 'ray'],
)
def test_parts_make_the_same_folder(model, folder, whole, tmp_path, workers):
    if workers.engine == 'ray':
        pytest.importorskip('ray')
    summary = predict_in_parts(
        model, dict(threads=1), find_sources([str(folder)]), tmp_path / 'out', SETTINGS, workers, part_size=3
    )
    assert (summary, files_of(tmp_path / 'out')) == whole


def test_what_a_stopped_run_left_is_taken_over(model, folder, whole, tmp_path, monkeypatch):
    sources, out = find_sources([str(folder)]), tmp_path / 'out'

    def stop(done, defective):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_in_parts(model, dict(threads=1), sources, out, SETTINGS, Workers(), part_size=3, progress=stop)
    assert len((out / 'predictions.jsonl').read_text().splitlines()) == 2
    # a part that was complete when the run was stopped
    predict_to_folder(load_predictor(model, threads=1), sources[2:4], out / 'parts' / '000001', SETTINGS, model)
    summary = predict_in_parts(model, dict(threads=1), sources, out, SETTINGS, Workers(), part_size=3)
    assert summary.skipped == 4 and summary.images == 3 and files_of(out) == whole[1]
    again = predict_in_parts(model, dict(threads=1), sources, out, SETTINGS, Workers(), part_size=3)
    assert (again.skipped, again.images, again.failed) == (7, 0, summary.failed)
    with pytest.raises(ValueError, match='same settings'):
        predict_in_parts(model, dict(threads=1), sources, out, JobSettings(min_area_px=9), Workers())


def test_tiles_and_the_call_behind_the_tool(model, folder, tmp_path):
    one, two = tmp_path / 'one', tmp_path / 'two'
    for out, processes in ((one, 1), (two, 2)):
        predict(model, [str(folder)], out, dict(threads=1), split=2, show_progress=False, processes=processes, batch=2)
    assert files_of(one) == files_of(two)
    assert json.loads((one / 'settings.json').read_text())['tiles']['split'] == 2
