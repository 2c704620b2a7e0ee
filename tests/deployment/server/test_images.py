"""Uploads as images: right statuses, and no cost that the size does not show."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest

from mmdefect.deployment.server.images import decode_upload, read_upload_header
from mmdefect.deployment.server.refusals import Refusal
from tests.deployment.server.upload_cases import bomb, chunk, good_uploads, hostile_uploads, png, tiff

LIMIT = 4_000_000
PNG_START = png(8, 8, b'').partition(b'\0\0\0\0IDAT')[0]


def status_of(data: bytes) -> int:
    try:
        read_upload_header(data, LIMIT)
        decode_upload(data, LIMIT)
    except Refusal as refusal:
        assert refusal.sentence.startswith('an upload must ') and refusal.sentence.endswith('.')
        return refusal.status
    return 200


@pytest.mark.parametrize('name, data, image', good_uploads(3), ids=lambda v: v if isinstance(v, str) else '')
def test_good_uploads(name, data, image):
    read_upload_header(data, LIMIT)
    got = decode_upload(data, LIMIT).pixels
    assert got.dtype == np.uint8 and got.flags.c_contiguous
    if image is not None:
        assert np.array_equal(got, image)
    if name == 'turned jpeg':
        assert got.shape == (128, 96, 3)


@pytest.mark.parametrize('seed', range(4))
def test_hostile_uploads(seed):
    wrong = [
        (name, got, statuses)
        for name, data, statuses in hostile_uploads(seed)
        if (got := status_of(data)) not in statuses
    ]
    assert not wrong


def test_bombs_cost_nothing():
    files = [bomb(), tiff({256: 10, 257: 10, 277: 3, 278: 2**28, 273: 8, 279: 100}), tiff({256: 2**31, 257: 2**31})]
    tracemalloc.start()
    try:
        assert [status_of(data) for data in files] == [413] * 3
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    'start, part',
    [
        (b'\xff\xd8', b'\xff\xfe\0\2'),
        (b'\xff\xd8', b'\xff'),
        (PNG_START, chunk(b'tEXt', b'')),
        (b'RIFF\0\0\0\1WEBP', b'abcd\0\0\0\0'),
    ],
)
def test_millions_of_parts_are_not_counted(start, part):
    data = start + part * (2**25 // len(part))
    begin = time.thread_time()
    assert status_of(data) == 422
    assert time.thread_time() - begin < 1.0  # several seconds without a limit


def test_any_damage_is_refused_or_decoded():
    """Nothing but an image or a refusal comes out, whatever the bytes are."""
    rng = np.random.default_rng(0)
    files = [data for name, data, _ in good_uploads(1)]
    for data in files:
        for _ in range(12):
            damaged = bytearray(data)
            for place in rng.integers(0, min(len(data), rng.choice([64, 10**9])), rng.integers(1, 6)):
                damaged[place] = int(rng.integers(0, 256))
            assert status_of(bytes(damaged)) in (200, 413, 415, 422)
