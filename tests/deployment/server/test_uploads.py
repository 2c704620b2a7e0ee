"""Bodies of requests, raw and forms, in any pieces and within limits; as images, without hidden costs."""

from __future__ import annotations

import asyncio
import time
import tracemalloc
from email.message import Message
from email.parser import BytesParser
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmdefect.deployment.server.errors import RequestError
from mmdefect.deployment.server.uploads import MAX_PARTS, decode_upload, drain, read_upload, read_upload_header
from tests.deployment.server.asgi_client import Body
from tests.deployment.server.upload_cases import bomb, chunk, field, form, good_uploads, hostile_uploads, png, tiff

pytest.importorskip('python_multipart')


def read(chunks, content_type='image/png', max_bytes=10_000, timeout_s=5.0, leaves=False, stalls=False, **headers):
    async def run():
        body = Body(tuple(chunks), leaves, stalls)
        request = SimpleNamespace(
            headers={'content-type': content_type, **headers}, state=SimpleNamespace(), receive=body.receive
        )
        return await read_upload(request, max_bytes, timeout_s)

    return asyncio.run(run())


def rejected(*args, **kwargs) -> tuple[int, str]:
    with pytest.raises(RequestError) as caught:
        read(*args, **kwargs)
    return caught.value.status, caught.value.sentence


def split(data: bytes, places) -> list[bytes]:
    edges = [0, *sorted(p % (len(data) + 1) for p in places), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


@pytest.mark.parametrize(
    'content_type', ['image/png', 'image/x-anything', 'application/octet-stream', '', 'IMAGE/PNG; charset=binary']
)
def test_raw(content_type):
    assert read([b'abc', b'', b'def'], content_type) == b'abcdef'


@pytest.mark.parametrize('content_type', ['text/plain', 'application/json', 'application/x-www-form-urlencoded', 'png'])
def test_other_types_of_content(content_type):
    status, sentence = rejected([b'abc'], content_type)
    assert status == 415 and content_type in sentence


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300), st.lists(st.integers(0, 10**6), max_size=8), st.text('abc./\\\u00e9 ', max_size=20))
def test_a_form_in_any_pieces_is_what_another_parser_reads(data, places, name):
    body, content_type = form(data, name, before=field())
    head = f'Content-Type: {content_type}\r\n\r\n'.encode()
    parts = BytesParser().parsebytes(head + body).get_payload()
    assert isinstance(parts[1], Message)
    got = read(split(body, places), content_type)
    assert got == data
    if not set(data) & set(b'\r\n') and data.isascii():  # the parser of mails takes the rest for lines of text
        assert parts[1].get_payload(decode=True) == data


def test_only_the_first_file_counts():
    one, content_type = form(b'first')
    two, _ = form(b'second')
    assert read([one.removesuffix(b'--b0undary--\r\n') + two], content_type) == b'first'


def test_a_file_that_looks_like_a_boundary():
    data = b'\r\n--b0undar\r\n--b0undaryx'[:12] + bytes(20) + b'\r\n--b0und'
    body, content_type = form(data)
    for place in range(len(body)):
        assert read([body[:place], body[place:]], content_type) == data


@pytest.mark.parametrize(
    'body, content_type, words',
    [
        (form(b'abc')[0], 'multipart/form-data', 'boundary'),
        (form(b'abc')[0][:-10], form(b'')[1], 'cut off'),
        (b'', form(b'')[1], 'cut off'),
        (b'no form at all', form(b'')[1], 'valid'),
        (field() + b'--b0undary--\r\n', form(b'')[1], 'holds none'),
        (field() * (MAX_PARTS + 1) + form(b'abc')[0], form(b'')[1], 'parts'),
        (form(b'abc', name='x' * 10_000)[0], form(b'')[1], 'must'),
    ],
)
def test_damaged_forms(body, content_type, words):
    status, sentence = rejected([body], content_type, max_bytes=100_000)
    assert status == 422 and words in sentence
    assert rejected([bytes([b]) for b in body], content_type, max_bytes=100_000)[0] == 422 if body else True


def test_too_long_is_known_before_reading_or_while_reading():
    assert rejected([b'x' * 5], max_bytes=10, **{'content-length': '11'})[0] == 413
    assert rejected([b'x' * 5] * 3, max_bytes=10)[0] == 413
    assert read([b'x' * 5] * 2, max_bytes=10) == b'x' * 10
    body, content_type = form(bytes(200))
    assert rejected([body], content_type, max_bytes=100)[0] == 413


def test_slow_and_leaving_clients():
    assert rejected([b'abc'], stalls=True, timeout_s=0.05)[0] == 408
    assert rejected([b'abc'], leaves=True)[0] == 400


def test_memory_of_a_long_upload_is_that_of_the_upload():
    piece = bytes(2**16)

    async def run() -> tuple[int, int]:
        request = SimpleNamespace(
            headers={'content-type': 'image/png'}, state=SimpleNamespace(), receive=Body((piece,) * 128).receive
        )
        tracemalloc.start()
        try:
            data = await read_upload(request, 2**24, 5.0)
            return len(data), tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    length, peak = asyncio.run(run())
    assert length == 2**23 and peak < 1.3 * length  # the buffer grows in steps of an eighth


@pytest.mark.parametrize('chunks, limit, read_first', [((b'x',) * 50, 20, 21), ((b'x',) * 5, 100, 5)])
def test_draining_stops(chunks, limit, read_first):
    body = Body(chunks)

    async def run():
        await drain(SimpleNamespace(headers={}, state=SimpleNamespace(), receive=body.receive), limit)

    asyncio.run(run())
    assert body.sent <= read_first


def test_who_waits_for_a_word_is_not_read():
    body = Body((b'x',))
    request = SimpleNamespace(headers={'expect': '100-continue'}, state=SimpleNamespace(), receive=body.receive)
    asyncio.run(drain(request, 9))
    assert body.sent == 0


LIMIT = 4_000_000
PNG_START = png(8, 8, b'').partition(b'\0\0\0\0IDAT')[0]


def status_of(data: bytes) -> int:
    try:
        read_upload_header(data, LIMIT)
        decode_upload(data, LIMIT)
    except RequestError as error:
        assert error.sentence.startswith('an upload must ') and error.sentence.endswith('.')
        return error.status
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


def test_any_damage_is_rejected_or_decoded():
    """Nothing but an image or an error comes out, whatever the bytes are."""
    rng = np.random.default_rng(0)
    files = [data for name, data, _ in good_uploads(1)]
    for data in files:
        for _ in range(12):
            damaged = bytearray(data)
            for place in rng.integers(0, min(len(data), rng.choice([64, 10**9])), rng.integers(1, 6)):
                damaged[place] = int(rng.integers(0, 256))
            assert status_of(bytes(damaged)) in (200, 413, 415, 422)
