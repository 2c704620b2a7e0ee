"""Micro-batches: who shares one, who waits how long, what a failure takes along."""

from __future__ import annotations

import threading
import time

import pytest

from mmdefect.deployment.server.batching import MicroBatcher


class Model:
    """Squares numbers; waits for its gate."""

    def __init__(self, gate: threading.Event | None = None) -> None:
        self.batches: list[tuple[list, object]] = []
        self.gate = gate
        self.entered = threading.Event()

    def __call__(self, images, key):
        self.batches.append((list(images), key))
        self.entered.set()
        if self.gate:
            assert self.gate.wait(10)
        if 13 in images:
            raise RuntimeError('unlucky')
        return [image**2 for image in images]


@pytest.fixture
def gated():
    """A batcher whose model is busy with the image 0 until the gate opens."""
    gate = threading.Event()
    model = Model(gate)
    batcher = MicroBatcher(model, max_batch=4, max_delay_s=0.0)
    first = batcher.submit(0, 'a')
    assert model.entered.wait(10)
    yield batcher, model, gate, first
    gate.set()
    batcher.close()


def test_what_arrives_while_the_model_is_busy_shares_batches_in_order(gated):
    batcher, model, gate, first = gated
    futures = [batcher.submit(k, 'a') for k in range(1, 8)]
    assert len(batcher) == 7
    gate.set()
    assert [f.result(10) for f in [first, *futures]] == [k**2 for k in range(8)]
    assert [images for images, _ in model.batches] == [[0], [1, 2, 3, 4], [5, 6, 7]]


def test_different_keys_do_not_share_and_keep_their_order(gated):
    batcher, model, gate, _ = gated
    futures = [batcher.submit(k, 'ab'[k % 2]) for k in range(1, 7)]
    gate.set()
    assert [f.result(10) for f in futures] == [k**2 for k in range(1, 7)]
    assert model.batches[1:] == [([1, 3, 5], 'b'), ([2, 4, 6], 'a')]


def test_a_failure_hits_one_image_only(gated):
    batcher, _, gate, _ = gated
    futures = {k: batcher.submit(k, 'a') for k in (1, 13, 2)}
    gate.set()
    assert futures[1].result(10) == 1 and futures[2].result(10) == 4
    with pytest.raises(RuntimeError, match='unlucky'):
        futures[13].result(10)
    assert batcher.is_alive()


def test_a_cancelled_image_never_reaches_the_model(gated):
    batcher, model, gate, _ = gated
    futures = [batcher.submit(k, 'a') for k in (1, 2, 3)]
    assert futures[1].cancel()
    gate.set()
    assert futures[2].result(10) == 9
    assert model.batches[1][0] == [1, 3]


def test_closing_finishes_what_is_queued(gated):
    batcher, _, gate, first = gated
    futures = [batcher.submit(k, 'a') for k in range(1, 11)]
    closer = threading.Thread(target=batcher.close)
    closer.start()
    gate.set()
    closer.join(10)
    assert [f.result(0) for f in [first, *futures]] == [k**2 for k in range(11)]
    assert not batcher.is_alive()
    with pytest.raises(RuntimeError, match='before the batcher is closed'):
        batcher.submit(1, 'a')


def test_alone_nobody_waits_and_in_company_everybody_waits_for_it():
    arriving = [0]
    model = Model()
    batcher = MicroBatcher(model, max_batch=3, max_delay_s=5.0, arriving=lambda: arriving[0])
    start = time.monotonic()
    batcher.submit(1, 'a').result(10)
    assert time.monotonic() - start < 2.0  # far from the 5 s of a wait, whatever the load
    arriving[0] = 2
    futures = [batcher.submit(k, 'a') for k in (2, 3, 4)]
    for future in futures:
        future.result(10)
    batcher.close()
    assert time.monotonic() - start < 4.0  # full before its time
    assert [images for images, _ in model.batches] == [[1], [2, 3, 4]]


def test_a_wait_ends():
    reports = []
    batcher = MicroBatcher(Model(), 8, 0.05, arriving=lambda: 1, report=reports.append)
    start = time.monotonic()
    assert batcher.submit(3, 'a').result(10) == 9
    seconds = time.monotonic() - start
    batcher.close()
    assert seconds >= 0.04
    assert reports[0].size == 1 and 0.04 <= reports[0].waited_s[0] <= seconds


def test_a_wrong_number_of_predictions_is_an_error():
    batcher = MicroBatcher(lambda images, key: [1, 2], 8, 0.0, arriving=lambda: 0)
    with pytest.raises(RuntimeError, match='one prediction per image, but 2 came for 1'):
        batcher.submit(3, 'a').result(10)
    batcher.close()
