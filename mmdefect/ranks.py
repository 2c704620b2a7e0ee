"""How a process that is one of several ends."""

import atexit
import os
import sys
import threading
from typing import NoReturn

import torch


def leave_group() -> None:
    """End the communication of several processes, when all of them have come here."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()
        torch.distributed.destroy_process_group()


def end_rank(code: int) -> NoReturn:
    """End one process of several as Python does, but without taking the interpreter down.

    The threads of gloo live as long as a wrapped model does, also after :func:`leave_group`. One that asks for the
    interpreter while it is taken down aborts the process ("terminate called without an active exception", exit code
    134), and the launcher calls a finished training failed. It happens now and then on a busy machine.
    """
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
