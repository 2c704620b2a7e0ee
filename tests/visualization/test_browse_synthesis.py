import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmdefect.visualization.grid import defect_row, fit_cell, outline, window_around
from tests.helpers.small import write_labelled_parts

REPO = Path(__file__).resolve().parents[2]
LEAF = 'configs/fast_scnn/fast-scnn_paste-poisson_2k_wta-256.py'


def browse(data_root, cache, *arguments, options=()):
    import os

    command = [
        sys.executable,
        'tools/browse_synthesis.py',
        LEAF,
        *map(str, arguments),
        '--cfg-options',
        f'data_root={data_root}',
        'crop_size=(96,120)',
        'image_scale=(120,96)',
        *options,
    ]
    return subprocess.run(
        command, cwd=REPO, capture_output=True, text=True, timeout=240, env={**os.environ, 'MMDEFECT_CACHE': str(cache)}
    )


@pytest.fixture(scope='module')
def data_root(tmp_path_factory):
    root = tmp_path_factory.mktemp('data')
    write_labelled_parts(root, train=6, val=6, test=6)
    return root


def test_the_sheet_the_page_and_the_records(data_root, tmp_path):
    sheet, page, records = tmp_path / 'a' / 'sheet.png', tmp_path / 'b' / 'page.html', tmp_path / 'c' / 'records.json'
    done = browse(
        data_root, tmp_path, '--out', sheet, '--page', page, '--save-instances', records, '--count', 3, '--side', 64
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split()[-3:] == [str(sheet), str(page), str(records)]
    assert cv2.imread(str(sheet)).shape[1] >= 5 * 64
    assert page.read_text().count('data:image/jpeg') == 8 * 9 and 'http' not in page.read_text()
    made = json.loads(records.read_text())
    assert sum(len(m['instances']) for m in made) >= 3
    for instance in made[0]['instances']:
        assert instance['class_index'] in (1, 2) and 'donor' in instance['parameters']


def test_a_config_without_a_recipe_is_one_sentence(data_root, tmp_path):
    done = browse(data_root, tmp_path, options=['synthesis=None'])
    assert done.returncode == 2 and 'SynthesizeDefects' in done.stderr.splitlines()[-1]


def test_a_row_shows_what_changed():
    before = np.full((60, 80, 3), 100, np.uint8)
    after, label = before.copy(), np.zeros((60, 80), np.uint8)
    after[20:24, 30:34], label[20:24, 30:34] = 110, 1
    cells = defect_row(before, after, label, None, (30, 20, 34, 24), [(0, 0, 0), (255, 0, 0)], 96)
    assert [c.shape for c in cells] == [(96, 96, 3)] * 5
    assert (cells[0] == 100).all() and (cells[1] == 255).all()
    assert set(np.unique(cells[4])) == {128, 128 + 50}
    assert (cells[4] == 178).all(-1).sum() == (4 * 2) ** 2  # enlarged twice, pixel by pixel


def test_outline_lies_outside_of_the_label():
    label = np.zeros((9, 9), np.uint8)
    label[3:6, 3:6], label[0] = 1, 255
    drawn = outline(np.zeros((9, 9, 3), np.uint8), label, [(0, 0, 0), (7, 8, 9)])
    assert (drawn[3:6, 3:6] == 0).all() and (drawn.sum(-1) > 0).sum() == 16 and (drawn[2, 2] == (7, 8, 9)).all()


@pytest.mark.parametrize('box', [(0, 0, 2, 2), (90, 50, 100, 60), (10, 10, 90, 50)])
def test_windows_stay_inside_and_hold_the_box(box):
    rows, columns = window_around(box, (60, 100))
    assert 0 <= rows.start and rows.stop <= 60 and 0 <= columns.start and columns.stop <= 100
    assert rows.stop - rows.start == columns.stop - columns.start
    if box[2] - box[0] <= 60:
        assert columns.start <= box[0] and box[2] <= columns.stop
    assert fit_cell(np.zeros((5, 9, 3), np.uint8), (32, 32)).shape == (32, 32, 3)
