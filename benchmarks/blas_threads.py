"""Do loader workers get in each other's way? Exact pastes in DataLoader workers, started as a user starts a training.

    python benchmarks/blas_threads.py                 # two forked workers, a defect of 112 pixels
    python benchmarks/blas_threads.py --start spawn --workers 4
    python benchmarks/blas_threads.py --unlimited     # what it would be without `one_blas_thread`

No environment variable limits threads: LAPACK would start as many in every worker as the machine has cores. A second
process measures the same with one thread from the start; the ratio of the two must stay below 1.3. The clock is that on
the wall, since threads that wait for each other cost no processor time, and the figure of each is the fastest tenth.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time

BAR = 1.3
LIMITS = ('OMP_NUM_THREADS', 'MKL_NUM_THREADS', 'OPENBLAS_NUM_THREADS')


class Pastes:
    """A data set whose samples are the milliseconds of one Poisson paste: warp, system, membrane and label."""

    def __init__(self, side: int, count: int) -> None:
        import numpy as np

        rng, (rows, columns) = np.random.default_rng(0), np.mgrid[: side + 16, : side + 16] - (side + 15) / 2
        self.count, self.image = count, rng.integers(60, 120, (2 * side + 64, 2 * side + 64, 3), dtype=np.uint8)
        self.mask = np.where(np.hypot(rows, columns) < side / 2, 1, 2).astype(np.uint8)
        self.patch = rng.integers(90, 150, (*self.mask.shape, 3), dtype=np.uint8)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> float:
        import numpy as np
        import torch

        from mmdefect.synthesis.library import Donor
        from mmdefect.synthesis.operations import NUM_UNIFORMS, OperationRanges, sample_operations
        from mmdefect.synthesis.places import overlap
        from mmdefect.synthesis.poisson import membrane
        from mmdefect.synthesis.policy import PolicySpec
        from mmdefect.synthesis.render.arrays import warp_donor, write_pastes
        from mmdefect.synthesis.sampler import Paste, uniforms

        donor = Donor(self.patch, self.mask, 1, int((self.mask == 1).sum()), '', (0, 0), self.mask.shape, 1.0)
        generator, ranges = torch.Generator().manual_seed(index), OperationRanges(scale=(1.0, 1.0))
        operations = sample_operations(uniforms(generator, NUM_UNIFORMS), ranges)
        image, label = self.image.copy(), np.zeros(self.image.shape[:2], np.uint8)
        if '--unlimited' in sys.argv:
            membrane._blas = list  # no library is found, so none is limited
        start = time.perf_counter()
        with membrane.one_blas_thread():
            fitted = warp_donor(donor, (1.0, 1.0), operations, 1).coloured(operations)
            windows = overlap(fitted.region.shape, (20, 20), label.shape)
            facts = 0, '', 1, fitted, (20, 20), fitted.region, *windows, 'poisson', {}
            write_pastes(image, label, [Paste(*facts)], PolicySpec())
        return 1e3 * (time.perf_counter() - start)


def measure(workers: int, start: str, side: int, count: int) -> float:
    """Return milliseconds of a paste, the fastest tenth of all that all workers made at the same time."""
    import numpy as np
    from torch.utils.data import DataLoader

    loader = DataLoader(Pastes(side, count), batch_size=None, num_workers=workers, multiprocessing_context=start)
    times = [float(value) for value in loader][5 * workers :]  # each worker warms up
    return float(np.quantile(times, 0.1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--workers', type=int, default=2)
    parser.add_argument('--start', choices=('fork', 'spawn'), default='fork')
    parser.add_argument('--side', type=int, default=112, help='of the defect in pixels (default: 112)')
    parser.add_argument('--count', type=int, default=400, help='pastes (default: 400)')
    parser.add_argument('--rounds', type=int, default=3, help='of both, in turns; the best counts (default: 3)')
    parser.add_argument('--unlimited', action='store_true', help='leave BLAS as it is, for comparison')
    parser.add_argument('--only-measure', action='store_true', help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only_measure:
        print(json.dumps(measure(arguments.workers, arguments.start, arguments.side, arguments.count)))
        return
    free = {name: value for name, value in os.environ.items() if name not in LIMITS}
    times: dict[str, list[float]] = {'as a user': [], 'one thread': []}
    for _ in range(arguments.rounds):
        for name, environment in (('as a user', free), ('one thread', free | dict.fromkeys(LIMITS, '1'))):
            command = [sys.executable, __file__, '--only-measure', *sys.argv[1:]]
            done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
            times[name].append(float(done.stdout.splitlines()[-1]))
    best = {name: min(values) for name, values in times.items()}
    ratio = best['as a user'] / best['one thread']
    print(f'{arguments.workers} workers by {arguments.start}, {arguments.side} px: ', end='')
    print(f'{best["as a user"]:.2f} ms, with one thread {best["one thread"]:.2f} ms; ratio {ratio:.2f} (bar {BAR})')
    raise SystemExit(ratio > BAR)


if __name__ == '__main__':
    main()
