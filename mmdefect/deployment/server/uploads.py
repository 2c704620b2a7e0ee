"""The body of a request as one image: counted while it arrives, kept in memory, and bounded in what it may cost."""

from __future__ import annotations

import asyncio
import contextlib
import io
import struct
from typing import Any

from mmdefect.deployment.decoding import DecodedImage, ImageError, ImageHeader, decode_image, read_header
from mmdefect.deployment.server.errors import RequestError

MAX_PARTS = 16
MAX_PART_HEADER_BYTES = 8192
#: How much, and how long, an error answer reads of a body that is not wanted, so that the client, who is still sending,
#: sees the answer and no broken connection.
DRAIN_BYTES, DRAIN_SECONDS = 256 * 2**20, 5.0
#: A progressive JPEG has about ten; each costs a pass over all pixels.
MAX_SCANS = 100
#: Reasons of errors for those that reading an image file may fail for.
_REASONS = {'type': 'unsupported', 'broken': 'unreadable', 'size': 'too_large'}
_NAME = 'an upload'
#: Tags of TIFF: width, height, rows of a strip, width and height of a tile.
_WIDTH, _HEIGHT, _ROWS, _TILE_WIDTH, _TILE_HEIGHT = _SIZES = (256, 257, 278, 322, 323)


def _unreadable(sentence: str) -> RequestError:
    return RequestError('unreadable', sentence)


async def read_upload(request: Any, max_body_bytes: int, timeout_s: float) -> bytes:
    """Return the image file that a request of Starlette carries, raw or as the first file of a form.

    Raises:
        RequestError: 413, 415, 422; 408 if it takes too long; 400 if the client leaves.
    """
    length = declared_length(request)
    if length is not None and length > max_body_bytes:
        raise _too_long(max_body_bytes, f'says {length}')
    body = _make_body(request.headers.get('content-type', ''))
    try:
        await asyncio.wait_for(_receive(request, body, max_body_bytes), timeout_s)
    except asyncio.TimeoutError:
        sentence = f'{_NAME} must arrive within {timeout_s:g} s, but this one did not; send it faster or smaller.'
        raise RequestError('slow', sentence) from None
    return body.finish()


def declared_length(request: Any) -> int | None:
    """Return the header ``Content-Length``, if there is one."""
    text = request.headers.get('content-length', '')
    return int(text) if text.isascii() and text.isdigit() else None


def _too_long(most: int, fact: str) -> RequestError:
    return RequestError(
        'too_large', f'{_NAME} must have at most {most} bytes, but this one {fact}; send a smaller file.'
    )


async def drain(request: Any, max_bytes: int = DRAIN_BYTES) -> None:
    """Read and forget the rest of a body, within limits."""
    if getattr(request.state, 'body_read', False) or 'expect' in request.headers:
        return  # a client that expects a word before sending gets the answer right away

    async def forget() -> None:
        count = 0
        while count < max_bytes:
            message = await request.receive()
            count += len(message.get('body', b''))
            if message['type'] != 'http.request' or not message.get('more_body', False):
                return

    with contextlib.suppress(asyncio.TimeoutError):  # the answer is sent anyway; the client may still read it
        await asyncio.wait_for(forget(), DRAIN_SECONDS)


async def _receive(request: Any, body: _RawBody | _FormBody, max_body_bytes: int) -> None:
    count, more = 0, True
    while more:
        message = await request.receive()
        left = message['type'] == 'http.disconnect'
        more = message.get('more_body', False) and not left
        request.state.body_read = not more
        if left:
            raise RequestError('left', 'an upload must be sent to its end, but the client left before; send it again.')
        chunk = message.get('body', b'')
        count += len(chunk)
        if count > max_body_bytes:
            raise _too_long(max_body_bytes, 'has more')
        body.write(chunk)


def _make_body(content_type: str) -> _RawBody | _FormBody:
    kind = content_type.partition(';')[0].strip().lower()
    if kind == 'multipart/form-data':
        return _FormBody(content_type)
    if kind in ('', 'application/octet-stream') or kind.startswith('image/'):
        return _RawBody()
    given = f'got {kind!r}; send the bytes of an image, or a form with one file.'
    wanted = 'image/*, application/octet-stream or multipart/form-data'
    raise RequestError('unsupported', f'the Content-Type must be {wanted}, {given}')


class _RawBody:
    """The body is the file."""

    def __init__(self) -> None:
        self._data = io.BytesIO()  # gives its bytes away without a copy
        self.write, self.finish = self._data.write, self._data.getvalue


class _FormBody:
    """The first file of a multipart form; fields and further files are read over."""

    def __init__(self, content_type: str) -> None:
        from python_multipart.multipart import MultipartParser, parse_options_header

        self._parse_options = parse_options_header
        boundary = parse_options_header(content_type)[1].get(b'boundary')
        if not boundary:
            raise _unreadable(
                'a form must name its boundary in the Content-Type; let your HTTP library write that header.'
            )
        self._data: io.BytesIO | None = None
        self._in_file = self._ended = False
        self._parts = self._header_bytes = 0
        self._name, self._value = bytearray(), bytearray()
        callbacks = {
            'on_part_begin': self._begin_part,
            'on_part_data': self._take_data,
            'on_part_end': self._end_part,
            'on_header_field': lambda *piece: self._take_header(self._name, *piece),
            'on_header_value': lambda *piece: self._take_header(self._value, *piece),
            'on_header_end': self._end_header,
            'on_end': self._end,
        }
        self._parser = MultipartParser(boundary, callbacks)

    def write(self, chunk: bytes) -> None:
        from python_multipart.exceptions import MultipartParseError

        try:
            self._parser.write(chunk)
        except MultipartParseError as err:
            fact = f'but this one is not ({str(err)[:120]}); let your HTTP library write it.'
            raise _unreadable(f'a form must be valid, {fact}') from err

    def finish(self) -> bytes:
        if not self._ended:
            raise _unreadable('a form must end with its boundary, but this one is cut off; send the whole form.')
        if self._data is None:
            raise _unreadable('a form must hold a file, but this one holds none; add one (curl -F image=@image.png).')
        return self._data.getvalue()

    def _begin_part(self) -> None:
        self._parts += 1
        self._header_bytes = 0
        if self._parts > MAX_PARTS:
            raise _unreadable(f'a form must have at most {MAX_PARTS} parts, but this one has more; send one image.')

    def _take_header(self, target: bytearray, data: bytes, start: int, end: int) -> None:
        self._header_bytes += end - start
        if self._header_bytes > MAX_PART_HEADER_BYTES:
            fact = f'{MAX_PART_HEADER_BYTES} bytes, but this one has more; send a plain form.'
            raise _unreadable(f'the head of a part must have at most {fact}')
        target += data[start:end]

    def _end_header(self) -> None:
        if bytes(self._name).lower() == b'content-disposition' and self._data is None:
            self._in_file = b'filename' in self._parse_options(bytes(self._value))[1]
            self._data = io.BytesIO() if self._in_file else None
        self._name.clear()
        self._value.clear()

    def _take_data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self._data.write(memoryview(data)[start:end])

    def _end_part(self) -> None:
        self._in_file = False

    def _end(self) -> None:
        self._ended = True


def read_upload_header(data: bytes, max_pixels: int) -> ImageHeader:
    """Return what the image says about itself, if decoding it is worth a try.

    Raises:
        RequestError: 415 for a format that is not read, 422 for a damaged file, 413 for more than ``max_pixels``.
    """
    if not data:
        raise _unreadable(f'{_NAME} must hold an image, but this one is empty; send the bytes of a file.')
    try:
        header = read_header(data, _NAME)
    except ImageError as err:
        raise RequestError(_REASONS[err.reason], str(err)) from err
    if header.pixels > max_pixels:
        height, width = header.size_hw
        fact = f'but its header says {width} x {height}; send tiles or a smaller image.'
        raise RequestError('too_large', f'{_NAME} must have at most {max_pixels} pixels, {fact}')
    if header.format == 'JPEG' and data.count(b'\xff\xda') > MAX_SCANS:
        fact = 'but this JPEG has more; save it without progressive coding.'
        raise _unreadable(f'{_NAME} must have at most {MAX_SCANS} scans, {fact}')
    if header.format == 'TIFF':
        _check_tiff(data, max_pixels)
    return header


def decode_upload(data: bytes, max_pixels: int) -> DecodedImage:
    """Return the image, upright, with what was changed to get it; errors as of :func:`read_upload_header`."""
    try:
        return decode_image(data, _NAME, max_pixels)
    except ImageError as err:
        raise RequestError(_REASONS[err.reason], str(err)) from err


def _check_tiff(data: bytes, max_pixels: int) -> None:
    """Reject strips and tiles far larger than the image, for which the decoder makes room, and sizes said twice."""
    order = '<' if data[:2] == b'II' else '>'
    (start,) = struct.unpack_from(order + 'I', data, 4)
    (count,) = struct.unpack_from(order + 'H', data, start)
    tags: dict[int, int] = {}
    for at in range(start + 2, start + 2 + 12 * count, 12):
        tag, kind, values = struct.unpack_from(order + 'HHI', data, at)
        if tag not in _SIZES:
            continue
        if tag in tags or kind not in (3, 4) or values != 1:
            fact = f'but its TIFF tag {tag} does not; send a valid file.'
            raise _unreadable(f'{_NAME} must say its sizes once and as whole numbers, {fact}')
        (tags[tag],) = struct.unpack_from(order + ('H' if kind == 3 else 'I'), data, at + 8)
    rows = tags.get(_ROWS, 2**32 - 1)  # that many stands for all
    strip = tags[_WIDTH] * (tags[_HEIGHT] if rows == 2**32 - 1 else rows)
    largest = max(strip, tags.get(_TILE_WIDTH, 0) * tags.get(_TILE_HEIGHT, 0))
    if largest > max_pixels:
        fact = f'but those of this TIFF have {largest}; save it in smaller ones.'
        raise RequestError('too_large', f'{_NAME} must have strips and tiles of at most {max_pixels} pixels, {fact}')
