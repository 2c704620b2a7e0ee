"""Data sets are built in mmseg's scope, as its runner does, and remember facts about files in a folder of the test."""

from __future__ import annotations

import gc

import pytest
from mmengine.registry import DefaultScope, init_default_scope

import mmdefect.registration  # noqa: F401


@pytest.fixture(autouse=True, scope='session')
def mmseg_scope():
    """Set mmseg's scope for the tests of this folder."""
    if DefaultScope.get_current_instance() is None:
        init_default_scope('mmseg')


@pytest.fixture(autouse=True, scope='session')
def small_garbage_collections():
    """Leave what is imported out of the collection mmengine makes for every data set, half a second each otherwise."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Keep what is remembered about files away from the user's cache."""
    folder = tmp_path_factory.mktemp('cache')
    monkeypatch.setenv('MMDEFECT_CACHE', str(folder))
    return folder
