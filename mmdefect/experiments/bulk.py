"""Bulk work: one function over many items, here, in several processes, or as a Ray Data pipeline; one code path.

The work is described by a *maker*: called once in every worker, it loads what is needed (a model, a data set) and
returns the function of one item. Results come back in the order of the items, whatever engine made them. A worker of
Ray that is lost is replaced and its items are done again; so the function should leave files whole or not at all.
"""

import argparse
import contextlib
import itertools
import multiprocessing
import os
import pickle
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from mmdefect.experiments.engines import connected
from mmdefect.experiments.process import thread_variables

Item = TypeVar('Item')
Result = TypeVar('Result')
#: Makes the function of one item. It is sent to other processes: a function of a module, or a ``functools.partial``.
Maker = Callable[[], Callable[[Item], Result]]
ENGINES = ('local', 'ray')
_worker: dict[str, Callable] = {}  # what this process applies to items


@dataclass(frozen=True)
class Workers:
    """Who does the work."""

    engine: str = 'local'  # `local` or `ray`
    count: int = 1  # workers; one local worker is this process itself
    #: threads of the libraries in each, and cores that Ray reserves for it; 0 leaves them, and reserves one
    threads: int = 0
    gpus: float = 0  # devices that Ray reserves for each; a part of one, such as 0.25, lets several share it
    address: str | None = None  # Ray cluster; by default `$RAY_ADDRESS`, else a Ray is started here

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise ValueError(f'`engine` must be one of {ENGINES}, got {self.engine!r}.')
        if self.count < 1 or self.threads < 0 or self.gpus < 0:
            numbers = f'{self.count}, {self.threads} and {self.gpus}'
            raise ValueError(f'workers must be at least 1, threads and devices at least 0, got {numbers}.')


def add_worker_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of bulk work to a parser."""
    add = parser.add_argument_group('who does the work').add_argument
    add('--engine', choices=ENGINES, default='local', help='default: local')
    add('--workers', type=int, default=1, help='processes, or actors of Ray (default: 1, this process)')
    add('--threads', type=int, default=0, help='threads of each (default: as they are)')
    add('--gpus-per-worker', type=float, default=0, help='ray: devices of each; 0.25: four share one')
    add('--ray-address', help='Ray cluster (default: $RAY_ADDRESS, else a Ray is started here)')


def workers_of(args: argparse.Namespace) -> Workers:
    """Return the workers that parsed options ask for."""
    return Workers(args.engine, args.workers, args.threads, args.gpus_per_worker, args.ray_address)


def map_items(make: Maker, items: Sequence[Item], workers: Workers = Workers()) -> Iterator[Result]:
    """Yield the results of all items, in their order.

    Items are sent to the workers one by one, so they should be small (numbers, paths). An error of the function is
    raised as in a plain loop: the first one by order of the items.
    """
    if workers.engine == 'ray':
        yield from _map_on_ray(make, items, workers)
    elif workers.count == 1:
        yield from map(make(), items)
    else:
        yield from _map_in_processes(make, items, workers)


def chunks(items: Sequence[Item], count: int) -> list[Sequence[Item]]:
    """Cut items into at most ``count`` runs of neighbours whose lengths differ by at most one."""
    count = min(count, len(items))
    bounds = [len(items) * k // count for k in range(count + 1)] if count else []
    return [items[low:high] for low, high in itertools.pairwise(bounds)]


def _map_in_processes(make: Maker, items: Sequence[Item], workers: Workers) -> Iterator[Result]:
    context = multiprocessing.get_context('spawn')
    with (
        _variables(thread_variables(workers.threads)),
        ProcessPoolExecutor(workers.count, context, _prepare, (make,)) as pool,
    ):
        waiting: deque[Future] = deque()
        try:
            for item in items:
                waiting.append(pool.submit(_apply, item))
                while len(waiting) >= 4 * workers.count:  # results are not made faster than they are used
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _prepare(make: Maker) -> None:
    _worker['function'] = make()


def _apply(item: Any) -> Any:
    return _worker['function'](item)


@contextlib.contextmanager
def _variables(values: dict[str, str]) -> Iterator[None]:
    """Set environment variables that processes started in the block inherit."""
    former = {name: os.environ[name] for name in values if name in os.environ}
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            os.environ.pop(name, None)
        os.environ.update(former)


def _map_on_ray(make: Maker, items: Sequence[Item], workers: Workers) -> Iterator[Result]:
    if not items:
        return
    cores = max(1, workers.threads)
    cluster = connected(workers.address, workers.count * cores, None if workers.gpus else 0)
    with _variables(thread_variables(workers.threads)), cluster:
        import ray.data  # needs pandas and pyarrow, which the extra brings

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.execution_options.preserve_order = True
        rows = [{'item': pickle.dumps(item)} for item in items]  # the same whatever Arrow makes of the type
        data = ray.data.from_items(rows, override_num_blocks=min(len(rows), 16 * workers.count))
        actors = ray.data.ActorPoolStrategy(size=workers.count)
        resources = dict(num_cpus=cores, num_gpus=workers.gpus or None, compute=actors)
        for row in data.map(_RayWorker, fn_constructor_args=(make, os.getcwd()), **resources).iter_rows():
            value, error = pickle.loads(row['result'])
            if error is not None:
                raise error
            yield value


class _RayWorker:
    """Holds the function of one worker; an error travels as a result, so that it arrives as the type it has."""

    def __init__(self, make: Maker, folder: str) -> None:
        os.chdir(folder)  # relative paths mean what they mean here
        self.function = make()

    def __call__(self, row: dict[str, bytes]) -> dict[str, bytes]:
        try:
            result = self.function(pickle.loads(row['item'])), None
        except Exception as err:  # raised where the results are used
            result = None, err
        return {'result': pickle.dumps(result)}
