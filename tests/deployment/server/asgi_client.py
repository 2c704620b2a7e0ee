"""Requests to an ASGI application without a network: every message of the body in the test's hand."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self):
        return json.loads(self.body)


@dataclass
class Body:
    """What a client sends.

    Attributes:
        chunks: of the body.
        leaves: whether the client goes after them.
        stalls: whether it sends nothing more, and does not go either.
    """

    chunks: Sequence[bytes] = field(default=(b'',), repr=False)
    leaves: bool = False
    stalls: bool = False
    sent: int = 0
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    async def receive(self) -> dict:
        if self.sent < len(self.chunks):
            self.sent += 1
            more = self.sent < len(self.chunks) or self.leaves or self.stalls
            return {'type': 'http.request', 'body': self.chunks[self.sent - 1], 'more_body': more}
        if not self.leaves:
            await self.gone.wait()
        return {'type': 'http.disconnect'}


class AsgiClient:
    """Runs an application in a thread with an event loop; a context manager."""

    def __init__(self, app) -> None:
        self.app = app
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> AsgiClient:
        self._thread.start()
        self._lifespan = self.app.router.lifespan_context(self.app)
        asyncio.run_coroutine_threadsafe(self._lifespan.__aenter__(), self._loop).result(30)
        return self

    def __exit__(self, *_) -> None:
        asyncio.run_coroutine_threadsafe(self._lifespan.__aexit__(None, None, None), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def send(self, method: str, path: str, body: bytes | Body = b'', **headers: str) -> Future:
        """Start a request; names of headers with ``_`` for ``-``."""
        body = body if isinstance(body, Body) else Body((body,))
        return asyncio.run_coroutine_threadsafe(self._send(method, path, body, headers), self._loop)

    def leave(self, body: Body) -> None:
        """Let the client of a running request go."""
        self._loop.call_soon_threadsafe(body.gone.set)

    def get(self, path: str, **headers: str) -> Answer:
        return self.send('GET', path, **headers).result(60)

    def post(self, path: str, body: bytes | Body, **headers: str) -> Answer:
        return self.send('POST', path, body, **headers).result(60)

    async def _send(self, method: str, path: str, body: Body, headers: dict[str, str]) -> Answer:
        named = {'host': '127.0.0.1:8000', **{k.replace('_', '-').lower(): v for k, v in headers.items()}}
        route, _, query = path.partition('?')
        scope = {
            'type': 'http',
            'asgi': {'version': '3.0'},
            'http_version': '1.1',
            'method': method,
            'path': route,
            'raw_path': route.encode(),
            'query_string': query.encode(),
            'root_path': '',
            'scheme': 'http',
            'headers': [(k.encode(), v.encode()) for k, v in named.items()],
            'client': ('127.0.0.1', 1),
            'server': ('127.0.0.1', 8000),
            'state': {},
        }
        got: dict = {'body': b''}

        async def send(message: dict) -> None:
            if message['type'] == 'http.response.start':
                got['status'] = message['status']
                got['headers'] = {k.decode(): v.decode() for k, v in message['headers']}
            else:
                got['body'] += message.get('body', b'')

        await self.app(scope, body.receive, send)
        return Answer(got['status'], got['headers'], got['body'])
