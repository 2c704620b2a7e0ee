"""The body of a request as the bytes of one file: counted while it arrives, kept in memory, never on disk."""

from __future__ import annotations

import asyncio
import io
from typing import Any

from mmdefect.deployment.server.refusals import Refusal, too_large, unreadable, unsupported

MAX_PARTS = 16
MAX_PART_HEADER_BYTES = 8192
#: How long, and how much, an error answer reads of a body that nobody wants, so that the client, who is still sending,
#: sees the answer and no broken connection.
DRAIN_SECONDS = 5.0
DRAIN_BYTES = 256 * 2**20


async def read_upload(request: Any, max_body_bytes: int, timeout_s: float) -> bytes:
    """Return the image file that a request carries, raw or as the first file of a form.

    Args:
        request: of Starlette. Names of files in it are ignored.
        max_body_bytes: of the whole body.
        timeout_s: for the whole body.

    Raises:
        Refusal: 413, 415, 422; 408 if it takes too long; 400 if the client leaves.
    """
    length = declared_length(request)
    if length is not None and length > max_body_bytes:
        raise too_large(
            f'an upload must have at most {max_body_bytes} bytes, but this one says {length}; send a smaller file.'
        )
    collector = _make_collector(request.headers.get('content-type', ''))
    try:
        await asyncio.wait_for(_collect(request, collector, max_body_bytes), timeout_s)
    except asyncio.TimeoutError:
        raise Refusal(
            408,
            'slow',
            f'an upload must arrive within {timeout_s:g} s, but this one did not; send it faster or smaller.',
        ) from None
    return collector.finish()


def declared_length(request: Any) -> int | None:
    """The header ``Content-Length``, if there is one."""
    text = request.headers.get('content-length', '')
    return int(text) if text.isascii() and text.isdigit() else None


async def drain(request: Any, max_bytes: int = DRAIN_BYTES) -> None:
    """Read and forget the rest of a body, within limits."""
    if getattr(request.state, 'body_read', False) or 'expect' in request.headers:
        return  # who expects a word before sending gets the answer right away

    async def forget() -> None:
        count = 0
        while count < max_bytes:
            message = await request.receive()
            count += len(message.get('body', b''))
            if message['type'] != 'http.request' or not message.get('more_body', False):
                return

    try:
        await asyncio.wait_for(forget(), DRAIN_SECONDS)
    except asyncio.TimeoutError:
        pass  # the answer is sent anyway; whether the client still reads it is up to the client


async def _collect(request: Any, collector: _Raw | _Form, max_body_bytes: int) -> None:
    count = 0
    while True:
        message = await request.receive()
        if message['type'] == 'http.disconnect':
            request.state.body_read = True
            raise Refusal(400, 'left', 'an upload must be sent to its end, but the client left before; send it again.')
        chunk = message.get('body', b'')
        request.state.body_read = not message.get('more_body', False)
        count += len(chunk)
        if count > max_body_bytes:
            raise too_large(
                f'an upload must have at most {max_body_bytes} bytes, but this one has more; send a smaller file.'
            )
        collector.write(chunk)
        if request.state.body_read:
            return


def _make_collector(content_type: str) -> _Raw | _Form:
    kind, _, rest = content_type.partition(';')
    kind = kind.strip().lower()
    if kind == 'multipart/form-data':
        return _Form(content_type)
    if kind in ('', 'application/octet-stream') or kind.startswith('image/'):
        return _Raw()
    raise unsupported(
        f'the Content-Type must be image/*, application/octet-stream or multipart/form-data, got '
        f'{kind!r}; send the bytes of an image, or a form with one file.'
    )


class _Raw:
    """The body is the file."""

    def __init__(self) -> None:
        self._data = io.BytesIO()  # gives its bytes away without a copy

    def write(self, chunk: bytes) -> None:
        self._data.write(chunk)

    def finish(self) -> bytes:
        return self._data.getvalue()


class _Form:
    """The first file of a multipart form; fields and further files are read over."""

    def __init__(self, content_type: str) -> None:
        from python_multipart.multipart import MultipartParser, parse_options_header

        _, options = parse_options_header(content_type)
        boundary = options.get(b'boundary')
        if not boundary:
            raise unreadable(
                'a form must name its boundary in the Content-Type, but this one does not; '
                'let your HTTP library write that header.'
            )
        self._parse_options = parse_options_header
        self._data: io.BytesIO | None = None
        self._taking = self._ended = False
        self._parts = self._header_bytes = 0
        self._name, self._value = bytearray(), bytearray()
        self._parser = MultipartParser(
            boundary,
            {
                'on_part_begin': self._begin,
                'on_part_data': self._take,
                'on_part_end': self._stop,
                'on_header_field': self._take_name,
                'on_header_value': self._take_value,
                'on_header_end': self._end_header,
                'on_end': self._end,
            },
        )

    def write(self, chunk: bytes) -> None:
        from python_multipart.exceptions import MultipartParseError

        try:
            self._parser.write(chunk)
        except MultipartParseError as err:
            raise unreadable(
                f'a form must be valid, but this one is not ({str(err)[:120]}); let your HTTP library write it.'
            ) from err

    def finish(self) -> bytes:
        if not self._ended:
            raise unreadable('a form must end with its boundary, but this one is cut off; send the whole form.')
        if self._data is None:
            raise unreadable(
                'a form must hold a file, but this one holds none; add the image as a file (curl -F image=@image.png).'
            )
        return self._data.getvalue()

    def _begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise unreadable(f'a form must have at most {MAX_PARTS} parts, but this one has more; send one image.')
        self._header_bytes = 0

    def _take_name(self, data: bytes, start: int, end: int) -> None:
        self._name += self._count_header(data[start:end])

    def _take_value(self, data: bytes, start: int, end: int) -> None:
        self._value += self._count_header(data[start:end])

    def _count_header(self, piece: bytes) -> bytes:
        self._header_bytes += len(piece)
        if self._header_bytes > MAX_PART_HEADER_BYTES:
            raise unreadable(
                f'the head of a part must have at most {MAX_PART_HEADER_BYTES} bytes, but this one has '
                'more; send a plain form.'
            )
        return piece

    def _end_header(self) -> None:
        if bytes(self._name).lower() == b'content-disposition' and self._data is None:
            self._taking = b'filename' in self._parse_options(bytes(self._value))[1]
            if self._taking:
                self._data = io.BytesIO()
        self._name, self._value = bytearray(), bytearray()

    def _take(self, data: bytes, start: int, end: int) -> None:
        if self._taking:
            self._data.write(memoryview(data)[start:end])

    def _stop(self) -> None:
        self._taking = False

    def _end(self) -> None:
        self._ended = True
