"""A real server with the stand-in model, as a process of its own, and a client for it."""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]


class ServerProcess:
    """Runs a command that prints a line with the address of its server; a context manager.

    Args:
        command: to run.
    """

    def __init__(self, command: list[str]) -> None:
        self.process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.log: list[str] = []  # read by a thread, since a full pipe would stop the server
        self._reader = threading.Thread(target=lambda: self.log.extend(self.process.stderr), daemon=True)
        self._reader.start()
        line = next((line for line in self.process.stdout if 'http://' in line), None)  # others may print before
        if line is None:
            self.process.wait(10)
            self._reader.join(10)
            raise RuntimeError('no server: ' + ''.join(self.log))
        self.url = 'http://' + line.split('http://')[1].strip()
        self.host, port = self.url.removeprefix('http://').rsplit(':', 1)
        self.port = int(port)

    def connect(self, timeout_s: float = 60) -> http.client.HTTPConnection:
        return http.client.HTTPConnection(self.host, self.port, timeout=timeout_s)

    def ask(self, method: str, path: str, body: bytes | None = None, connection=None, **headers: str):
        """Status, headers and body of an answer; over a connection of its own unless one is given."""
        own = connection or self.connect()
        try:
            own.request(method, path, body, {k.replace('_', '-'): v for k, v in headers.items()})
            answer = own.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            if connection is None:
                own.close()

    def resident_bytes(self) -> int:
        lines = Path(f'/proc/{self.process.pid}/status').read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith('VmRSS')).split()[1])

    def in_flight(self) -> int:
        return json.loads(self.ask('GET', '/healthz')[2])['in_flight']

    def wait_in_flight(self, count: int, seconds: float = 30) -> None:
        end = time.monotonic() + seconds
        while self.in_flight() != count:
            assert time.monotonic() < end, f'never {count} requests at once'
            time.sleep(0.01)

    def finish(self, seconds: float = 30) -> tuple[int, str]:
        """Wait for the end; exit status and what was printed after the address."""
        status = self.process.wait(seconds)
        return status, self.process.stdout.read()

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *_) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join(10)
        self.process.stdout.close()
        self.process.stderr.close()


def start_stand_in(**arguments) -> ServerProcess:
    """Start the stand-in; arguments of ``ServerSettings``, and ``delay_s`` of the model."""
    return ServerProcess([sys.executable, '-m', 'tests.deployment.server.stand_in_server', json.dumps(arguments)])


def main() -> None:
    from mmdefect.deployment.server.run import serve
    from mmdefect.deployment.server.settings import ServerSettings
    from tests.deployment.server.stand_in import StandIn

    arguments = json.loads(sys.argv[1])
    model, delay_s = StandIn(), arguments.pop('delay_s', 0.0)

    def announce(url: str) -> None:
        model.delay_s = delay_s  # not while the server warms up
        print(url, flush=True)

    serve(model, ServerSettings(port=0, **arguments), announce)
    print('closed' if model.closed else 'left open', flush=True)


if __name__ == '__main__':
    main()
