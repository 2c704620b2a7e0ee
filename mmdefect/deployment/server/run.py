"""Serve a predictor until a signal says stop."""

import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from mmdefect.deployment.server.app import create_app
from mmdefect.deployment.server.settings import ServerSettings
from mmdefect.deployment.types import Predictor
from mmdefect.extras import require

WARM_UP_SIZE_HW = (256, 256)
BACKLOG = 2048


def serve(
    predictor: Predictor,
    settings: ServerSettings,
    on_ready: Callable[[str], None] | None = None,
    access_log: bool = False,
) -> None:
    """Answer requests until SIGINT or SIGTERM, then answer what was accepted, close the predictor and return.

    A second SIGINT stops at once. ``on_ready`` gets the address once requests are answered.

    Raises:
        ImportError, OSError, ValueError: without a package, for an address in use, if the model fails on a grey image.
    """
    require('serve', who='the server')
    import uvicorn

    if not settings.is_loopback and settings.token is None:
        logging.getLogger('mmdefect.server').warning(
            'anyone who reaches %s may ask for predictions; set a token, or listen on 127.0.0.1.', settings.host
        )
    with listen(settings) as listener:
        _warm_up(predictor)
        host, port = listener.getsockname()[:2]
        url = f'http://[{host}]:{port}' if ':' in host else f'http://{host}:{port}'
        config = uvicorn.Config(
            create_app(predictor, settings, (lambda: on_ready(url)) if on_ready else None),
            log_level='info' if access_log else 'warning',
            access_log=access_log,
            server_header=False,
            # A limit on connections, beside that on requests: a client that only connects costs memory, too.
            limit_concurrency=4 * settings.queue_size + 64,
            timeout_graceful_shutdown=max(1, round(settings.shutdown_timeout_s)),
        )
        with _signals_end_normally():
            uvicorn.Server(config).run(sockets=[listener])


@contextmanager
def _signals_end_normally() -> Iterator[None]:
    """Uvicorn raises a signal again after it has stopped; by then all is done, and the process may end as it likes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def listen(settings: ServerSettings) -> socket.socket:
    """Return a socket that listens on the address; ``OSError`` with what to do if that fails."""
    try:
        family, *_, address = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        # asyncio turns Nagle's algorithm off only where the protocol is named; the head and the body of an answer are
        # two packets, and the second would wait 40 ms for the client's acknowledgement of the first.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)  # from here on clients wait instead of being turned away
        except OSError:
            listener.close()
            raise
    except OSError as err:
        fact = f'but that fails ({err.strerror}); stop what uses it or choose another --port.'
        place = f'{settings.host} port {settings.port}'
        raise OSError(f'the server must be able to listen on {place}, {fact}') from err
    return listener


def _warm_up(predictor: Predictor) -> None:
    """Predict once, so that a model that cannot run is known before the first client comes."""
    height, width = predictor.info.input_size_hw or WARM_UP_SIZE_HW
    try:
        predictor.predict_batch([np.full((height, width, 3), 127, np.uint8)])
    except Exception as err:
        fact = f'but it fails ({err}); export or train it anew.'
        raise ValueError(f'the model must predict a grey image of {width} x {height} pixels, {fact}') from err
