"""A real server with the stand-in model, as a process of its own: ``python -m tests.deployment.server.stand_in_server``."""

from __future__ import annotations

import json
import sys
import time

from mmdefect.deployment.server.run import serve
from mmdefect.deployment.server.settings import ServerSettings
from tests.deployment.server.stand_in import StandIn


def main() -> None:
    arguments = json.loads(sys.argv[1])
    delay_s = arguments.pop('delay_s', 0.0)
    start_s = time.time()
    serve(StandIn(delay_s=delay_s), ServerSettings(port=0, **arguments), lambda url: print(url, start_s, flush=True))
    print('stopped', flush=True)


if __name__ == '__main__':
    main()
