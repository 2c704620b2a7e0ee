"""One function over many items on every engine."""

from __future__ import annotations

import os
from functools import partial

import pytest

from mmdefect.experiments.bulk import Workers, chunks, map_items
from tests.experiments.bulk_work import make_square


@pytest.fixture(scope='module')
def ray_here():
    """A Ray of two slots for the tests of this module."""
    pytest.importorskip('ray')
    from mmdefect.experiments.engines import connected

    with connected('local', 2, 0):
        yield


ENGINES = [
    pytest.param(Workers(), id='here'),
    pytest.param(Workers(count=2, threads=3), id='processes'),
    pytest.param(Workers('ray', 2, threads=1), id='ray', marks=pytest.mark.slow),
]


@pytest.fixture
def workers(request):
    if request.param.engine == 'ray':
        request.getfixturevalue('ray_here')
    return request.param


@pytest.mark.parametrize('workers', ENGINES, indirect=True)
def test_results_come_in_order_from_functions_made_once_a_worker(tmp_path, workers):
    results = list(map_items(partial(make_square, tmp_path), range(40), workers))
    assert [value for value, _, _ in results] == [n**2 for n in range(40)]
    processes = {process for _, process, _ in results}
    assert len(list(tmp_path.glob('made_*'))) <= workers.count and len(processes) <= workers.count
    assert (processes == {os.getpid()}) is (workers == Workers())
    if workers.threads:
        assert {threads for _, _, threads in results} == {str(workers.threads)}


@pytest.mark.parametrize('workers', ENGINES, indirect=True)
def test_an_error_is_raised_as_in_a_loop(tmp_path, workers):
    results = map_items(partial(make_square, tmp_path, 5), range(12), workers)
    assert [next(results)[0] for _ in range(5)] == [0, 1, 4, 9, 16]
    with pytest.raises(KeyError, match='no square of 5'):
        next(results)


@pytest.mark.parametrize('workers', ENGINES, indirect=True)
def test_nothing_to_do_is_done(tmp_path, workers):
    assert list(map_items(partial(make_square, tmp_path), [], workers)) == []


@pytest.mark.slow
def test_items_of_a_worker_that_died_on_ray_are_done_again(tmp_path, ray_here):
    results = list(map_items(partial(make_square, tmp_path, None, 7), range(20), Workers('ray', 2)))
    assert (tmp_path / 'died').exists() and [value for value, _, _ in results] == [n**2 for n in range(20)]


@pytest.mark.parametrize('length, count, sizes', [(7, 3, [2, 2, 3]), (2, 5, [1, 1]), (0, 3, []), (6, 1, [6])])
def test_chunks_cover_all_items_in_order(length, count, sizes):
    cut = chunks(range(length), count)
    assert [len(c) for c in cut] == sizes and [n for c in cut for n in c] == list(range(length))


@pytest.mark.parametrize('values', [dict(engine='spark'), dict(count=0), dict(threads=-1)])
def test_wrong_workers_are_refused(values):
    with pytest.raises(ValueError, match='must be'):
        Workers(**values)
