"""The benchmark that says whether learned maps know where defects are."""

import runpy
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / 'benchmarks'))
    return runpy.run_path(str(ROOT / 'benchmarks' / 'learned_places.py'))


def test_the_area_is_the_chance_of_a_pair_in_the_right_order(benchmark):
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 5, 30).astype(float)  # with ties, which count half
    positive, negative = rng.random(30), rng.random(30)
    pairs = [(p * n, (a > b) + (a == b) / 2) for a, p in zip(scores, positive, strict=True)
             for b, n in zip(scores, negative, strict=True)]
    expected = sum(w * won for w, won in pairs) / sum(w for w, _ in pairs)
    assert benchmark['weighted_auc'](scores, positive, negative) == pytest.approx(expected, rel=1e-12)
    assert benchmark['weighted_auc'](np.ones(30), positive, negative) == pytest.approx(0.5)


def test_pixels_are_counted_in_cells_of_the_frame(benchmark, tmp_path):
    from tests.helpers.data import save
    label = np.zeros((64, 128), np.uint8)
    label[:2, :4], label[-2:, -4:-2] = 1, 2
    save(tmp_path / 'ann_dir' / 'test' / '0.png', label)
    found = benchmark['count_places'](tmp_path, ('test',), 2)
    assert found[1, 0, 0] == pytest.approx(8) and found[1].sum() == pytest.approx(8)
    assert found[2, -1, -1] == pytest.approx(4) and found[2].sum() == pytest.approx(4)
    with pytest.raises(SystemExit, match='labels of val'):
        benchmark['count_places'](tmp_path, ('val',), 2)
