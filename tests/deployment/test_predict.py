"""tools/predict.py as it is called: every kind of input, the tables, going on after a stop, and the exit codes."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from mmdefect.deployment import load_predictor
from mmdefect.deployment.predict import parse_thresholds, predict
from mmdefect.deployment.sources import decode_ahead, find_sources
from mmdefect.deployment.writing import draw_overlay, encode_label_png
from mmdefect.visualization.overlay import overlay_labels
from tests.helpers.deployment import PALETTE, make_images, write_exported

ROOT = Path(__file__).resolve().parents[2]
#: Kills every import that a machine on the line need not have.
HOOK = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {'torch', 'torchvision', 'mmcv', 'mmengine', 'mmseg', 'mmpretrain', 'PIL', 'scipy',
                                  'rich', 'matplotlib', 'kornia', 'onnx', 'sklearn', 'pandas', 'prettytable', 'yaml'}:
            raise ImportError(f'{name} is not there on the line')
sys.meta_path.insert(0, Refuse())
"""


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    return write_exported(tmp_path_factory.mktemp('model'))


@pytest.fixture
def folder(tmp_path):
    for index, image in enumerate(make_images(5, 90, 120)):
        path = tmp_path / 'parts' / f'shift{index % 2}' / f'part_{index}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image[..., ::-1])
    return tmp_path / 'parts'


def run(arguments, stdin=None, hook=False):
    command = [sys.executable, 'tools/predict.py', *map(str, arguments)]
    if hook:
        code = (
            HOOK + f"import runpy; sys.argv = {command[1:]!r}; sys.path.insert(0, '.')\n"
            "runpy.run_path('tools/predict.py', run_name='__main__')"
        )
        command = [sys.executable, '-c', code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, input=stdin)


def test_it_runs_with_numpy_opencv_and_onnxruntime_alone(model, folder, tmp_path):
    done = run(
        [
            model,
            folder,
            '--out',
            tmp_path / 'out',
            '--overlay',
            '--probabilities',
            '--fail-on-defect',
            '--min-area',
            5,
            '--mm-per-pixel',
            0.5,
            '--threshold',
            'broken=0.6',
        ],
        hook=True,
    )
    assert done.returncode == 3, done.stderr
    assert '5 images predicted, 5 defective, 0 unreadable; a part is rejected when any pixel' in done.stdout
    assert 'ETA' in done.stderr
    check_outputs(model, folder, tmp_path / 'out')


def check_outputs(model, folder, out):
    predictor = load_predictor(model)
    thresholds = (predictor.info.thresholds[0], 0.6)
    records = [json.loads(line) for line in (out / 'predictions.jsonl').read_text().splitlines()]
    rows = list(csv.DictReader(io.StringIO((out / 'defects.csv').read_text())))
    assert [r['image'] for r in records] == [str(p) for p in sorted(folder.rglob('*.png'))]
    assert len(rows) == sum(len(r['defects']) for r in records) > 5
    for record in records:
        path = Path(record['image'])
        name = path.relative_to(folder).with_suffix('')
        image = np.asarray(Image.open(path).convert('RGB'))
        expected = predictor.predict_batch([image], thresholds, 5, 0.5, True)[0]
        label = Image.open(out / 'labels' / name.with_suffix('.png'))
        np.testing.assert_array_equal(np.asarray(label), expected.label_map)
        assert label.mode == 'P' and label.getpalette()[:9] == [v for colour in PALETTE for v in colour]
        stored = np.load(out / 'probabilities' / name.with_suffix('.npz'))['probabilities']
        np.testing.assert_allclose(stored, expected.probabilities, atol=1e-3)
        overlay = np.asarray(Image.open(out / 'overlays' / name.with_suffix('.png')))
        np.testing.assert_array_equal(overlay, overlay_labels(image, expected.label_map, PALETTE))
        own = [row for row in rows if row['image'] == record['image']]
        for row, defect, told in zip(own, expected.defects, record['defects'], strict=True):
            assert int(row['area_px']) == defect.area_px == told['area_px'] >= 5
            assert float(row['score']) == pytest.approx(defect.score, abs=1e-4)
            assert float(row['length_mm']) == pytest.approx(defect.length_px / 2, abs=1e-4)
            assert row['class_name'] == defect.class_name and row['is_defective'] == 'True'


def test_files_patterns_lists_and_folders_name_the_same_images(folder):
    files = sorted(folder.rglob('*.png'))
    by_folder = find_sources([str(folder)])
    assert [s.path for s in by_folder] == files and by_folder[0].name == 'shift0/part_0'
    assert [s.path for s in find_sources([str(folder / '**' / '*.png')])] == files
    assert [s.path for s in find_sources(['-'], [f'{f}\n' for f in files] + ['\n'])] == files
    assert [s.path for s in find_sources([str(f) for f in files] + [str(files[0])])] == files
    cv2.imwrite(str(folder / 'part_0.bmp'), np.zeros((4, 4, 3), np.uint8))
    both = find_sources([str(folder / 'part_0.bmp'), str(files[0])])
    assert [s.name for s in both] == ['part_0', 'shift0/part_0']
    for arguments, message in ((['nowhere'], 'nothing is found'), ([str(folder / '*.gif')], 'nothing is found')):
        with pytest.raises(FileNotFoundError, match=message):
            find_sources(arguments)
    (folder / 'notes.txt').write_text('x')
    with pytest.raises(ValueError, match='must be an image'):
        find_sources([str(folder / 'notes.txt')])


def test_equal_names_in_different_folders_get_their_folders(tmp_path):
    for place in ('a/left/x.png', 'a/right/x.png', 'a/right/y.png', 'b/x.png', 'b/x.jpg'):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(b'')
    names = ['a/left/x.png', 'a/right/x.png', 'a/right/y.png']
    lines = [f'{tmp_path / name}\n' for name in names]
    assert [s.name for s in find_sources(['-'], lines)] == ['left/x', 'right/x', 'y']
    both = find_sources([str(tmp_path / 'a'), str(tmp_path / 'b' / 'x.png')])
    assert [s.name for s in both] == ['left/x', 'right/x', 'right/y', 'x']  # within a folder they are told apart anyway
    folders = find_sources([str(tmp_path / 'a' / 'left'), str(tmp_path / 'a' / 'right')])
    assert [s.name for s in folders] == ['left/x', 'right/x', 'y']
    with pytest.raises(ValueError, match='would both be written as x; predict them apart'):
        find_sources([str(tmp_path / 'b' / 'x.png'), str(tmp_path / 'b' / 'x.jpg')])


def test_a_video_is_predicted_frame_by_frame_and_goes_on(model, tmp_path):
    frames = make_images(4, 64, 96)
    video = cv2.VideoWriter(str(tmp_path / 'belt.avi'), cv2.VideoWriter_fourcc(*'MJPG'), 10, (96, 64))
    for frame in frames:
        video.write(np.ascontiguousarray(frame[..., ::-1]))
    video.release()
    summary = predict(model, [str(tmp_path / 'belt.avi')], tmp_path / 'out', show_progress=False)
    assert summary.images == 4
    names = sorted(p.name for p in (tmp_path / 'out' / 'labels' / 'belt').iterdir())
    assert names == [f'frame_{i:06d}.png' for i in range(4)]
    again = predict(model, [str(tmp_path / 'belt.avi')], tmp_path / 'out', show_progress=False)
    assert (again.images, again.skipped) == (0, 4)


def test_a_stopped_run_goes_on_and_ends_the_same(model, folder, tmp_path):
    whole, parts = tmp_path / 'whole', tmp_path / 'parts_out'
    predict(model, [str(folder)], whole, show_progress=False)
    predict(model, [str(folder)], parts, show_progress=False)
    lines = (parts / 'predictions.jsonl').read_text().splitlines(keepends=True)
    (parts / 'predictions.jsonl').write_text(''.join(lines[:2]) + lines[2][:40])  # killed in the middle of a line
    (parts / 'labels' / 'shift0' / 'part_4.png').unlink()
    summary = predict(model, [str(folder)], parts, show_progress=False)
    assert (summary.images, summary.skipped, summary.defective) == (3, 2, 5)
    for path in whole.rglob('*.*'):
        assert path.read_bytes() == (parts / path.relative_to(whole)).read_bytes(), path


def test_other_settings_do_not_go_on(model, folder, tmp_path):
    predict(model, [str(folder)], tmp_path / 'out', show_progress=False)
    with pytest.raises(ValueError, match='these differ: min_area_px, thresholds'):
        predict(model, [str(folder)], tmp_path / 'out', thresholds=['0.9'], min_area_px=3, show_progress=False)
    summary = predict(
        model, [str(folder)], tmp_path / 'out', thresholds=['0.9'], min_area_px=3, overwrite=True, show_progress=False
    )
    assert summary.images == 5
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'thesis.tex').write_text('x')
    with pytest.raises(ValueError, match='holds other files'):
        predict(model, [str(folder)], tmp_path / 'mine', show_progress=False)


def test_unreadable_images_are_listed_and_the_rest_goes_on(model, folder, tmp_path):
    (folder / 'shift0' / 'part_1x.png').write_bytes((folder / 'shift0' / 'part_0.png').read_bytes()[:500])
    done = run([model, folder, '--out', tmp_path / 'out', '--fail-on-defect'])
    assert done.returncode == 1 and 'part_1x.png must be a complete' in done.stderr
    assert '5 images predicted' in done.stdout and '1 unreadable' in done.stdout
    row = [r for r in csv.DictReader(io.StringIO((tmp_path / 'out' / 'images.csv').read_text())) if r['error']]
    assert len(row) == 1 and row[0]['image'].endswith('part_1x.png')


def test_exit_codes_of_clean_parts_and_of_mistakes(model, folder, tmp_path):
    clean = run(
        [model, '-', '--out', tmp_path / 'out', '--threshold', '0.999999', '--fail-on-defect'],
        stdin='\n'.join(map(str, folder.rglob('*.png'))),
    )
    assert clean.returncode == 0 and '0 defective' in clean.stdout, clean.stderr
    for arguments, message in (
        ([model, folder / 'none', '--out', tmp_path / 'o'], 'nothing is found'),
        ([model, folder, '--out', tmp_path / 'o', '--threshold', 'rust=0.5'], "got 'rust'"),
    ):
        done = run(arguments)
        assert done.returncode == 2 and message in done.stderr and 'Traceback' not in done.stderr


def test_tiles_from_the_command_line(model, folder, tmp_path):
    summary = predict(model, [str(folder)], tmp_path / 'out', tile=[64], margin=2, show_progress=False)
    assert summary.images == 5
    assert json.loads((tmp_path / 'out' / 'settings.json').read_text())['tiles']['overlap_px'] == 8
    with pytest.raises(ValueError, match='give --tile or --split'):
        predict(model, [str(folder)], tmp_path / 'other', margin=2, show_progress=False)


def test_thresholds_by_name_or_for_all(model):
    info = load_predictor(model).info
    assert parse_thresholds(None, info) is None and parse_thresholds(['0.3'], info) == (0.3, 0.3)
    assert parse_thresholds(['broken=0.3'], info) == (info.thresholds[0], 0.3)
    with pytest.raises(ValueError, match='VALUE or CLASS=VALUE'):
        parse_thresholds(['broken=half'], info)


def test_decoding_ahead_keeps_the_order_and_reads_no_more_than_it_may(folder, monkeypatch):
    monkeypatch.setattr('mmdefect.deployment.sources.AHEAD_BYTES', 1)
    sources = find_sources([str(folder)])
    assert [s for s, _ in decode_ahead(sources, 3)] == sources
    assert len(list(decode_ahead(sources, 3, max_pixels=5))) == 5


def test_label_png_and_overlay_of_bands():
    rng = np.random.default_rng(0)
    label = (rng.random((300, 200)) < 0.02).astype(np.uint8) * 2
    label[100:200] = 0
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_label_png(label, PALETTE)))), label)
    image = rng.integers(0, 256, (300, 200, 3)).astype(np.uint8)
    for rows in (7, 64, 512):
        np.testing.assert_array_equal(draw_overlay(image, label, PALETTE, rows), overlay_labels(image, label, PALETTE))
