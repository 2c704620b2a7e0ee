"""Label review: pairing, ranking, table, page of images, and the tool."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmdefect.experiments.evidence.label_review import compare_folders, find_pairs, review_page, summary, to_csv
from tests.helpers.realdata import real_data

TOOL = Path(__file__).parents[3] / 'tools' / 'label_noise.py'


def write(folder, **boxes):
    folder.mkdir(parents=True, exist_ok=True)
    for name, (side, value) in boxes.items():
        label = np.zeros((64, 64), np.uint8)
        label[10 : 10 + side, 10 : 10 + side] = value
        cv2.imwrite(str(folder / f'{name}.png'), label)
    return folder


@pytest.fixture
def folders(tmp_path):
    first = write(tmp_path / 'a', same=(9, 1), bigger=(30, 1), clean=(0, 1), other=(9, 2), alone=(3, 1))
    second = write(tmp_path / 'b', same=(9, 1), bigger=(6, 1), clean=(0, 1), other=(9, 1))
    return first, second


def test_the_most_suspicious_come_first(folders):
    results = compare_folders(folders[0], [folders[1]], 3)
    assert [(r.name, r.agreement.kind()) for r in results] == [
        ('bigger', 'outline differs'),
        ('other', 'other class'),
        ('clean', 'both clean'),
        ('same', 'agree'),
    ]
    rows = list(csv.DictReader(to_csv(results).splitlines()))
    assert rows[0]['image'] == 'bigger' and float(rows[0]['iou']) == round(36 / 900, 4) and rows[2]['iou'] == ''
    assert 'IoU 0.186 over all pixels' in summary(results, 3)  # (81 + 36 + 81) / (81 + 900 + 81)
    page = review_page(results, None, False, 5)
    assert page.shape[1] > 4 * 200 and page.shape[0] > 2 * 200


def test_folds_are_joined_and_must_not_overlap(folders, tmp_path):
    extra = write(tmp_path / 'c', alone=(3, 1))
    pairs, unpaired = find_pairs(folders[0], [folders[1], extra])
    assert len(pairs) == 5 and not unpaired
    assert find_pairs(folders[0], [folders[1]])[1] == ['alone']
    write(extra, same=(9, 1))
    with pytest.raises(ValueError, match='one fold only'):
        find_pairs(folders[0], [folders[1], extra])


def test_what_cannot_be_paired_is_said(folders, tmp_path):
    with pytest.raises(FileNotFoundError, match='none in common'):
        find_pairs(folders[0], [write(tmp_path / 'd', zzz=(1, 1))])
    with pytest.raises(FileNotFoundError, match='must be a folder'):
        find_pairs(folders[0], [tmp_path / 'none'])


def test_the_tool_writes_table_and_sheet(folders, tmp_path):
    done = subprocess.run(
        [sys.executable, TOOL, *map(str, folders), '--out', tmp_path / 'review'], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert '1 label maps have no counterpart' in done.stdout and (tmp_path / 'review.csv').is_file()
    assert cv2.imread(str(tmp_path / 'review.png')) is not None
    wrong = subprocess.run([sys.executable, TOOL, folders[0], tmp_path / 'none'], capture_output=True, text=True)
    assert wrong.returncode == 2 and wrong.stderr.startswith('error: ') and 'Traceback' not in wrong.stderr


def test_a_published_model_against_the_labels():
    labels, run = real_data('wta512', 'ann_dir', 'test'), real_data('wta512_golden', 'fastfcn_origin', 'pred')
    results = compare_folders(labels, [run], 3)
    assert len(results) == 60 and results[0].agreement.unconfirmed > 500
    assert 'IoU 0.416 over all pixels' in summary(results, 3)
