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
    pairs = [
        (p * n, (a > b) + (a == b) / 2)
        for a, p in zip(scores, positive, strict=True)
        for b, n in zip(scores, negative, strict=True)
    ]
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


def test_policies_agree_as_far_as_their_maps_correlate(benchmark, tmp_path):
    rng = np.random.default_rng(1)
    first = rng.random((3, 32, 32)) + 0.1
    for name, maps in (('a', first), ('b', 2 * first + 1), ('c', rng.random((3, 32, 32)))):
        (tmp_path / name / 'maps').mkdir(parents=True)
        if name == 'c':
            np.save(tmp_path / name / 'maps.npy', maps)  # by class: the row of sound places is not a map
        for number, one in enumerate(maps):
            np.save(tmp_path / name / 'maps' / f'{number}.npy', one)
    a, b, c = (benchmark['read_maps'](tmp_path / name) for name in 'abc')
    assert sorted(a) == ['0', '1', '2'] and sorted(c) == ['1', '2']
    rows = benchmark['agreement']([a, b])
    low, high = np.percentile(np.concatenate([one.ravel() / one.mean() for one in first]), (5, 95))
    assert rows[0]['spread'] == pytest.approx(high / low, abs=0.01) and rows[2]['correlation'] == 1
    assert abs(benchmark['agreement']([a, c])[2]['correlation']) < 0.1
    with pytest.raises(SystemExit, match='one map for each of the 2 --classes'):
        benchmark['detection']([a, c], tmp_path, ['attached', 'broken'])
    (tmp_path / 'd').mkdir()
    with pytest.raises(SystemExit, match=r'must hold maps\.npy or maps'):
        benchmark['read_maps'](tmp_path / 'd')
