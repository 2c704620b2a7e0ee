"""Headless Chromium for tests of pages, driven through the pipe of its DevTools protocol; no driver package."""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path

NAMES = ('chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable')


def find_chromium() -> str | None:
    """The program that ``CHROMIUM`` names or that lies on the path."""
    return os.environ.get('CHROMIUM') or next(filter(None, map(shutil.which, NAMES)), None)


class Browser:
    """One page in a fresh profile, with every request to another host than ``127.0.0.1`` failing.

    Args:
        program: of :func:`find_chromium`.
        profile: folder for its files.
        dark: whether the page is told that its reader prefers dark colours.
        size: of the window, width and height.
    """

    def __init__(self, program: str, profile: Path, dark: bool = False, size: tuple[int, int] = (1280, 900)) -> None:
        command_read, self._write = os.pipe()
        self._read, answer_write = os.pipe()
        # Chromium reads commands from descriptor 3 and answers on 4.
        script = f'exec "$@" 3<&{command_read} 4>&{answer_write}'
        flags = [
            '--headless',
            '--no-sandbox',
            '--disable-gpu',
            '--disable-dev-shm-usage',
            '--remote-debugging-pipe',
            '--no-first-run',
            '--disable-background-networking',
            '--disable-component-update',
            '--no-proxy-server',
            '--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1',
            '--disable-extensions',
            f'--user-data-dir={profile}',
            f'--window-size={size[0]},{size[1]}',
        ]
        # bash: dash takes one digit only for the number of a descriptor.
        self._process = subprocess.Popen(
            ['bash', '-c', script, 'bash', program, *flags, 'about:blank'],
            pass_fds=(command_read, answer_write),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(command_read)
        os.close(answer_write)
        self._numbers = itertools.count(1)
        self._rest = b''
        self.events: list[dict] = []
        target = self._call('Target.createTarget', {'url': 'about:blank'}, '')
        attached = self._call('Target.attachToTarget', {'targetId': target['targetId'], 'flatten': True}, '')
        self._session = attached['sessionId']
        for domain in ('Page', 'Runtime', 'Network', 'Log', 'DOM'):
            self.call(f'{domain}.enable')
        if dark:
            self.call('Emulation.setEmulatedMedia', features=[{'name': 'prefers-color-scheme', 'value': 'dark'}])

    def call(self, method: str, **parameters) -> dict:
        """One command to the page; events that come meanwhile are kept."""
        return self._call(method, parameters, self._session)

    def _call(self, method: str, parameters: dict, session: str, timeout_s: float = 60) -> dict:
        number = next(self._numbers)
        message = {'id': number, 'method': method, 'params': parameters, **({'sessionId': session} if session else {})}
        os.write(self._write, json.dumps(message).encode() + b'\0')
        end = time.monotonic() + timeout_s
        while True:
            answer = self._receive(end)
            if answer.get('id') == number:
                if 'error' in answer:
                    raise RuntimeError(f'{method}: {answer["error"]}')
                return answer['result']
            self.events.append(answer)

    def _receive(self, end: float) -> dict:
        while b'\0' not in self._rest:
            if not select.select([self._read], [], [], max(0.0, end - time.monotonic()))[0]:
                raise TimeoutError('Chromium gave no answer.')
            piece = os.read(self._read, 1 << 20)
            if not piece:
                raise RuntimeError('Chromium has ended.')
            self._rest += piece
        line, _, self._rest = self._rest.partition(b'\0')
        return json.loads(line)

    def open(self, url: str) -> None:
        """Go to an address and wait until it is loaded."""
        self.call('Page.navigate', url=url)
        self.wait('document.readyState === "complete" && location.href.startsWith(' + json.dumps(url) + ')')

    def run(self, script: str):
        """Value of an expression in the page; promises are waited for."""
        result = self.call('Runtime.evaluate', expression=script, awaitPromise=True, returnByValue=True)
        if 'exceptionDetails' in result:
            raise RuntimeError(json.dumps(result['exceptionDetails'])[:1000])
        return result['result'].get('value')

    def wait(self, condition: str, timeout_s: float = 30) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + timeout_s
        while not self.run(condition):
            if time.monotonic() > end:
                raise TimeoutError(f'never true: {condition}')
            time.sleep(0.05)

    def choose_file(self, selector: str, path: Path) -> None:
        """Put a file into an input."""
        root = self.call('DOM.getDocument')['root']['nodeId']
        node = self.call('DOM.querySelector', nodeId=root, selector=selector)['nodeId']
        self.call('DOM.setFileInputFiles', nodeId=node, files=[str(path)])

    def drop(self, name: str, data: bytes, kind: str) -> None:
        """Drop a file onto the page, as a hand does."""
        text = base64.b64encode(data).decode()
        self.run(
            '(()=>{const bytes=Uint8Array.from(atob("' + text + '"),c=>c.charCodeAt(0));'
            'const t=new DataTransfer();t.items.add(new File([bytes],'
            + json.dumps(name)
            + ',{type:'
            + json.dumps(kind)
            + '}));for(const e of ["dragover","drop"])document.dispatchEvent('
            'new DragEvent(e,{dataTransfer:t,bubbles:true,cancelable:true}))})()'
        )

    def screenshot(self, path: Path) -> None:
        """Write the window as PNG."""
        path.write_bytes(base64.b64decode(self.call('Page.captureScreenshot', format='png')['data']))

    def problems(self) -> list[str]:
        """Exceptions, errors in the console and failed requests since the start."""
        found = []
        for event in self.events:
            method, content = event.get('method'), event.get('params', {})
            if method == 'Runtime.exceptionThrown':
                found.append(json.dumps(content['exceptionDetails'])[:500])
            elif method == 'Log.entryAdded' and content['entry']['level'] == 'error':
                found.append(content['entry']['text'])
            elif method == 'Network.loadingFailed':
                found.append(content['errorText'])
        return found

    def hosts(self) -> set[str]:
        """Hosts and ports that the page asked for something."""
        urls = [e['params']['request']['url'] for e in self.events if e.get('method') == 'Network.requestWillBeSent']
        return {url.split('/')[2] for url in urls if url.startswith('http')}

    def close(self) -> None:
        try:
            self._call('Browser.close', {}, '', timeout_s=10)
            self._process.wait(10)
        except (RuntimeError, TimeoutError, OSError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        os.close(self._write)
        os.close(self._read)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_) -> None:
        self.close()
