"""A real server on loopback: a thousand uploads, overload, and every way to end."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

from mmdefect.deployment.server.run import listen
from mmdefect.deployment.server.settings import ServerSettings
from mmdefect.extras import MODULES
from tests.deployment.server.stand_in_server import ROOT, start_stand_in
from tests.deployment.server.upload_cases import encode, form, good_uploads, hostile_uploads, scene

for package in MODULES['serve']:
    pytest.importorskip(package)

PNG = encode(Image.fromarray(scene()), 'PNG')
#: What a client sees when its server is gone.
BROKEN = (ConnectionError, http.client.HTTPException)


def mixed_uploads(count: int):
    """Name, body, Content-Type and right statuses; half of them as forms."""

    def kinds():
        for seed in itertools.count():
            yield from ((name, data, (200,)) for name, data, _ in good_uploads(seed))
            yield from hostile_uploads(seed)

    for k, (name, data, statuses) in enumerate(itertools.islice(kinds(), count)):
        yield (name, *(form(data) if k % 2 else (data, 'image/png')), statuses)


@pytest.mark.slow
def test_a_thousand_good_and_hostile_uploads():
    uploads = list(mixed_uploads(1000))
    wrong, marks, lock = [], [], threading.Lock()
    with start_stand_in() as server:

        def send(part):
            connection = server.connect()
            for k, (name, body, content_type, statuses) in part:
                status, _, answer = server.ask(
                    'POST', '/predict?scores=true&mask=true', body, connection, content_type=content_type
                )
                with lock:
                    if status not in statuses or ('error' not in json.loads(answer) and status != 200):
                        wrong.append((name, status, answer[:200]))
                    if k % 100 == 0:
                        marks.append((k, server.resident_bytes()))
            connection.close()

        numbered = list(enumerate(uploads))
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(send, [numbered[i::4] for i in range(4)]))
        assert not wrong
        assert server.in_flight() == 0 and server.process.poll() is None
        early = max(size for k, size in marks if k <= 300)
        late = max(size for k, size in marks if k > 300)
        assert late < early + 24 * 2**20  # the arenas of malloc settle within this
        assert server.ask('POST', '/predict', PNG)[0] == 200


def test_overload_is_answered_and_passes():
    with start_stand_in(delay_s=1.0, queue_size=4, max_batch=2) as server, ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: server.ask('POST', '/predict', PNG), range(12)))
        statuses = [status for status, *_ in answers]
        assert set(statuses) == {200, 503} and statuses.count(200) >= 4
        assert all(1 <= int(headers['Retry-After']) <= 60 for status, headers, _ in answers if status == 503)
        assert server.ask('POST', '/predict', PNG)[0] == 200


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_stop_lets_accepted_requests_finish(number):
    with start_stand_in(delay_s=0.5, max_batch=2) as server, ThreadPoolExecutor(5) as pool:
        answers = [pool.submit(server.ask, 'POST', '/predict', PNG) for _ in range(5)]
        server.wait_in_flight(5)
        server.process.send_signal(number)
        end = time.monotonic() + 30
        with pytest.raises(ConnectionError):  # no newcomers, soon
            while time.monotonic() < end:
                server.ask('GET', '/healthz')
                time.sleep(0.05)
        assert [answer.result()[0] for answer in answers] == [200] * 5
        assert server.finish() == (0, 'closed\n')


def test_a_model_that_hangs_does_not_hold_up_the_end():
    with start_stand_in(delay_s=600, shutdown_timeout_s=1) as server, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(server.ask, 'POST', '/predict', PNG)
        server.wait_in_flight(1)
        server.process.terminate()
        assert server.finish(30) == (0, 'left open\n')
        with contextlib.suppress(*BROKEN):
            assert waiting.result(10)[0] >= 500


def start_upload(server):
    """A connection that has sent the first bytes of an image."""
    connection = server.connect()
    connection.putrequest('POST', '/predict')
    connection.putheader('Content-Length', str(len(PNG)))
    connection.endheaders(PNG[:100])
    return connection


def test_a_stalled_upload_does_not_hold_up_the_end():
    with start_stand_in(shutdown_timeout_s=1) as server:
        connection = start_upload(server)
        server.wait_in_flight(1)
        server.process.terminate()
        assert server.finish(20) == (0, 'closed\n')
        with pytest.raises(BROKEN):
            connection.send(PNG[100:])
            assert connection.getresponse().status >= 500  # an answer would have to be an error
            raise http.client.RemoteDisconnected
        connection.close()


def test_a_killed_server_answers_nobody_silently():
    """Neither who waits for the model nor who still sends takes the end for an answer."""
    with start_stand_in(delay_s=30) as server, ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(server.ask, 'POST', '/predict', PNG)
        server.wait_in_flight(1)
        sending = start_upload(server)
        server.wait_in_flight(2)
        server.process.kill()
        server.process.wait()
        with pytest.raises(BROKEN):
            waiting.result(20)
        with pytest.raises(BROKEN):
            sending.send(PNG[100:])
            sending.getresponse()
        sending.close()


def test_a_client_that_still_sends_sees_why_it_is_rejected():
    with start_stand_in(max_body_bytes=100_000) as server:
        assert server.ask('POST', '/predict', bytes(20_000_000))[0] == 413
        assert server.ask('POST', '/predict', iter([bytes(100_000)] * 200))[0] == 413  # chunked, of unknown length
        assert server.ask('POST', '/predict', PNG)[0] == 200


def test_garbage_instead_of_http():
    with start_stand_in() as server:
        for garbage in (
            b'\0' * 1000,
            b'GET / HTTP/9.9\r\n\r\n',
            b'POST /predict HTTP/1.1\r\nContent-Length: -5\r\n\r\n',
            b'POST /predict HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n',
            b'X' * 200_000,
        ):
            with socket.create_connection((server.host, server.port), timeout=10) as raw:
                try:
                    raw.sendall(garbage)
                    first = raw.recv(100)
                except ConnectionError:
                    first = b''
                assert first == b'' or first.startswith(b'HTTP/1.1 4')
        assert server.ask('POST', '/predict', PNG)[0] == 200


def test_a_taken_port_is_said_in_a_sentence():
    with start_stand_in() as server:
        code = (
            'from mmdefect.deployment.server.run import serve\n'
            'from mmdefect.deployment.server.settings import ServerSettings\n'
            'from tests.deployment.server.stand_in import StandIn\n'
            f'serve(StandIn(), ServerSettings(port={server.port}))'
        )
        done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True, timeout=60)
        last = done.stderr.strip().splitlines()[-1]
        assert done.returncode and f'127.0.0.1 port {server.port}' in last and 'choose another --port' in last


def test_the_body_of_an_answer_does_not_wait_for_the_client():
    """A second small packet waits 40 ms for the first one's acknowledgement unless Nagle's algorithm is off."""

    async def nodelay() -> int:
        seen = asyncio.get_running_loop().create_future()

        async def talk(reader, writer):
            found = writer.get_extra_info('socket').getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            seen.set_result(found)
            writer.close()

        listener = listen(ServerSettings(host='127.0.0.1', port=0))
        async with await asyncio.start_server(talk, sock=listener):
            with socket.create_connection(listener.getsockname()):
                return await asyncio.wait_for(seen, 10)

    assert asyncio.run(nodelay())
