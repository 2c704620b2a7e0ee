"""Two processes of one run on this machine, as a launcher would start them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run_two_ranks(module: str, folder: Path, *arguments: object, timeout: float = 600) -> list[dict]:
    """Run a module of the tests as two ranks; return the ``rank<n>.json`` that each left in the folder."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        'WORLD_SIZE': '2',
        'MASTER_ADDR': '127.0.0.1',
        'MASTER_PORT': str(port),
        'CUDA_VISIBLE_DEVICES': '',
        'OMP_NUM_THREADS': '1',
        'PYTHONPATH': str(ROOT),
    }
    programs = [
        subprocess.Popen(
            [sys.executable, '-m', module, str(folder), *map(str, arguments)],
            cwd=ROOT,
            env={**environment, 'RANK': str(rank), 'LOCAL_RANK': str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [program.communicate(timeout=timeout)[0] for program in programs]
    assert [program.returncode for program in programs] == [0, 0], '\n'.join(out[-3000:] for out in outputs)
    return [json.loads((folder / f'rank{rank}.json').read_text()) for rank in range(2)]
