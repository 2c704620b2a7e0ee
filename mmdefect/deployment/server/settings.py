"""Limits and addresses of the server, checked once."""

import ipaddress
import math
from dataclasses import dataclass, field

#: Names under which a server on loopback may be addressed; other names reach it through DNS rebinding only.
LOOPBACK_HOSTS = ('localhost', '127.0.0.1', '[::1]')


@dataclass(frozen=True)
class ServerSettings:
    """How the server behaves."""

    host: str = '127.0.0.1'
    port: int = 8000  # 0 lets the system choose
    max_body_bytes: int = 32 * 2**20  # longest upload
    max_pixels: int = 25_000_000  # largest image, known from its header before anything is decoded
    memory_bytes: int = 2**30  # what uploads, decoded images and answers of all requests may hold, by estimate
    queue_size: int = 64  # requests accepted and not yet answered; more are rejected with 503
    max_batch: int = 8  # images that the model gets at once
    max_delay_s: float = 0.005  # longest time that an image waits for others to share its batch
    decode_threads: int = 2  # images decoded, and answers encoded, at the same time
    body_timeout_s: float = 30.0  # for an upload to arrive
    shutdown_timeout_s: float = 30.0  # for accepted requests to be answered after a signal to stop
    token: str | None = field(default=None, repr=False)  # that clients must send as `Authorization: Bearer`; None: no
    #: Values of the header ``Host`` that are answered; empty: those of loopback while listening there, else any.
    allowed_hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65535:
            raise ValueError(f'`port` must be 0 (the system chooses) to 65535, got {self.port}.')
        for name in ('max_body_bytes', 'max_pixels', 'memory_bytes', 'queue_size', 'max_batch', 'decode_threads'):
            if getattr(self, name) < 1:
                raise ValueError(f'`{name}` must be at least 1, got {getattr(self, name)}.')
        for name in ('max_delay_s', 'body_timeout_s', 'shutdown_timeout_s'):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f'`{name}` must be a number of seconds, at least 0, got {getattr(self, name)}.')
        token = self.token
        if token is not None and not (token and token.isascii() and token.isprintable() and ' ' not in token):
            raise ValueError('`token` must be printable ASCII without blanks, as a header can carry; got another one.')

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        try:
            return self.host == 'localhost' or ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def answered_hosts(self) -> tuple[str, ...]:
        """Values of ``Host`` without port that are answered; empty means any."""
        if self.allowed_hosts or not self.is_loopback:
            return self.allowed_hosts
        return tuple(dict.fromkeys([*LOOPBACK_HOSTS, self.host]))
