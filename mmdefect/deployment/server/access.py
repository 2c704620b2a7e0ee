"""Who may ask: the token of the server, and the names under which it may be addressed."""

from __future__ import annotations

import hmac
from typing import Any

from mmdefect.deployment.server.refusals import Refusal
from mmdefect.deployment.server.settings import ServerSettings


def check_token(request: Any, settings: ServerSettings) -> None:
    """Do nothing for who may ask.

    Raises:
        Refusal: 401 for a missing or wrong token.
    """
    if settings.token is None:
        return
    scheme, _, token = request.headers.get('authorization', '').partition(' ')
    # Bytes: texts outside ASCII cannot be compared in constant time.
    equal = hmac.compare_digest(token.strip().encode('utf-8', 'replace'), settings.token.encode())
    if scheme.lower() != 'bearer' or not equal:
        raise Refusal(
            401,
            'no_token',
            'a request must carry the token of this server as `Authorization: Bearer '
            'TOKEN`, but this one carries none or another one; ask who runs the server.',
        )


def check_host(request: Any, settings: ServerSettings) -> None:
    """Do nothing for a request that addresses the server by a name of its own.

    A page of a stranger can point a name of his at a loopback address and would then be allowed to read the answers.

    Raises:
        Refusal: 421 for another name.
    """
    hosts = settings.answered_hosts
    name = request.headers.get('host', '')
    if hosts and _without_port(name) not in hosts:
        raise Refusal(
            421,
            'wrong_host',
            f'the server must be addressed as one of {", ".join(hosts)}, got '
            f'{name[:80]!r}; use one of these names or start the server with --allowed-host.',
        )


def _without_port(host: str) -> str:
    if host.startswith('['):
        return host.partition(']')[0] + ']'
    return host.partition(':')[0].lower()
