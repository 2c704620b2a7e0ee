"""Reach a Ray cluster, or start a small one here. Ray is an optional dependency and is imported on first use."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from types import ModuleType

#: Shared memory of a local Ray for results on their way, in bytes; jobs and bulk work pass files and small records.
OBJECT_STORE_BYTES = 128 * 2**20


def import_ray() -> ModuleType:
    """Import Ray.

    Raises:
        ModuleNotFoundError: if it is not installed; the message names the extra.
    """
    os.environ.setdefault('RAY_USAGE_STATS_ENABLED', '0')  # otherwise Ray reports home
    os.environ.setdefault('RAY_worker_niceness', '0')  # 15 by default: workers would starve beside any other program
    os.environ.setdefault('RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO', '0')  # tasks without GPUs keep CUDA_VISIBLE_DEVICES
    try:
        import ray
    except ModuleNotFoundError as err:
        raise ModuleNotFoundError(
            'the engine `ray` needs the package ray, which is not installed; run '
            '`pip install -c constraints.txt "mmdefect[ray]"`, or take `--engine local`.'
        ) from err
    return ray


@contextlib.contextmanager
def connected(address: str | None = None, cpus: int | None = None, gpus: int | None = None) -> Iterator[ModuleType]:
    """Hold a connection to Ray; one that was there before is used and left as it is.

    Args:
        address: of the cluster; by default ``$RAY_ADDRESS``; if that is not set either, a Ray is started here and
            ended with the block.
        cpus: slots of a Ray that is started here; by default the number of cores.
        gpus: devices of a Ray that is started here; by default those that it finds.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    address = address or os.environ.get('RAY_ADDRESS') or 'local'
    here = dict(num_cpus=cpus, num_gpus=gpus, include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES)
    # Workers find this package where the driver found it: Ray hands on its sys.path.
    ray.init(address, logging_level='warning', **(here if address == 'local' else {}))
    try:
        yield ray
    finally:
        ray.shutdown()
