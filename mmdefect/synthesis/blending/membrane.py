"""The membrane of one mask in numpy and single precision: what a Poisson paste in a worker spends its time on.

The method is that of :mod:`~mmdefect.synthesis.blending.lattice`: sources on the pixels around the mask, one system
over them, one pair of transforms. Here the tables come in few sizes, half of the system is filled, and everything is
float32: the condition of the system is about the number of pixels along the mask's side (18 to 130 were measured for
masks of 16 to 96 pixels), so that five digits of the membrane are right. Masks that touch the border of the image, or are so large
that another solver is faster, go to :class:`~mmdefect.synthesis.blending.domain.PoissonFactor`.
"""

from __future__ import annotations

from functools import cached_property, lru_cache

import cv2
import numpy as np
import scipy.fft
import torch
from numpy import ndarray
from scipy.linalg import lapack

from mmdefect.synthesis.blending.domain import PoissonFactor
from mmdefect.synthesis.blending.lattice import green_table, inverse_eigenvalues

#: Masks with more pixels beside them than this go to the factor that chooses between solvers.
MOST_BESIDE = 1200
#: Up to this many pairs of a masked pixel and one beside it the field is summed; above it goes through a transform.
MOST_DIRECT = 40_000
_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
#: Sides of the torus, the few that all masks share the tables of; from 32 on each is about an eighth above the last.
_SIDES = np.array(
    [
        8,
        10,
        12,
        15,
        16,
        18,
        20,
        24,
        27,
        30,
        32,
        36,
        40,
        45,
        50,
        54,
        60,
        64,
        72,
        80,
        90,
        100,
        108,
        120,
        128,
        144,
        160,
        180,
        200,
        216,
        240,
        256,
        288,
        320,
        360,
        400,
        432,
        480,
        512,
        576,
        640,
        720,
        800,
        900,
        1024,
    ]
)


class Membrane:
    """Interpolates values given on the pixels beside a mask over the mask, harmonically.

    Args:
        mask: ``(h, w)`` bool; a pixel on the edge of the array is taken to lie on the border of the image.

    Attributes:
        inside: ``(n,)`` positions of the mask in the flattened array.
        beside: ``(m,)`` positions of its four-neighbours outside of it.
    """

    def __init__(self, mask: ndarray) -> None:
        self.mask = mask
        self._factor: ndarray | None = None

    @cached_property
    def inside(self) -> ndarray:
        return np.flatnonzero(self.mask)

    @cached_property
    def beside(self) -> ndarray:
        around = cv2.dilate(self.mask.view(np.uint8), _CROSS)
        around -= self.mask.view(np.uint8)
        return np.flatnonzero(around)

    @cached_property
    def _general(self) -> PoissonFactor | None:
        mask = self.mask
        at_border = mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any()
        return PoissonFactor(mask) if at_border or len(self.beside) > MOST_BESIDE else None

    @property
    def nbytes(self) -> int:
        """Memory of what is kept for the next paste; that of a general solver is not counted."""
        return sum(array.nbytes for array in vars(self).values() if isinstance(array, ndarray))

    def extend(self, given: ndarray) -> ndarray:
        """Return the membrane: ``(m, C)`` float32 values beside the mask -> ``(n, C)`` float32 inside."""
        if self._general is not None:
            values = torch.from_numpy(np.ascontiguousarray(given.T, dtype=np.float32))
            return self._general.solver.extend(values).numpy().T
        if self._factor is None:
            self._factorize()
        columns = np.empty((len(given), given.shape[1] + 1), np.float32, order='F')
        columns[:, :-1], columns[:, -1] = given, 1
        sources = lapack.spotrs(self._factor, columns, lower=1, overwrite_b=1)[0]
        # The sources must have no sum: a constant makes up for what the torus takes away.
        sums = sources.sum(0)
        constant = sums[:-1] / sums[-1]
        sources = sources[:, :-1] - sources[:, -1:] * constant
        small = len(self.inside) * len(given) <= MOST_DIRECT
        return (self._green(self.inside, self.beside) @ sources if small else self._field(sources)) + constant

    def _green(self, here: ndarray, there: ndarray) -> ndarray:
        """Return the field at some pixels of unit sources at others, ``(len(here), len(there))`` float32."""
        rows, columns = self._torus
        pitch = 2 * columns - 1
        places = (_places(flat, self.mask.shape[1], pitch) for flat in (here, there))
        first, second = places
        return _table(rows, columns)[np.subtract.outer(first + ((rows - 1) * pitch + columns - 1), second)]

    def _factorize(self) -> None:
        count = len(self.beside)
        matrix = np.empty((count, count), np.float32)
        step = -(-count // 4) if count > 128 else count
        for start in range(0, count, step):  # LAPACK reads one triangle only
            matrix[start : start + step, start:] = self._green(self.beside[start : start + step], self.beside[start:])
        self._factor, info = lapack.spotrf(matrix.T, lower=1, clean=0, overwrite_a=1)
        if info:
            raise np.linalg.LinAlgError(
                f'The source matrix of {count} pixels must be positive definite, LAPACK '
                f'reports {info}. Check that the mask leaves a pixel free.'
            )

    @cached_property
    def _torus(self) -> tuple[int, int]:
        height, width = self.mask.shape
        return _side(height), _side(width)

    def _field(self, sources: ndarray) -> ndarray:
        rows, columns = self._torus
        height, width = self.mask.shape
        grid = np.zeros((sources.shape[1], rows * columns), np.float32)
        grid[:, _places(self.beside, width, columns)] = sources.T
        spectrum = scipy.fft.rfft2(grid.reshape(-1, rows, columns), overwrite_x=True)
        spectrum *= _weights(rows, columns)
        field = scipy.fft.irfft2(spectrum, s=(rows, columns), overwrite_x=True)
        return field.reshape(len(grid), -1)[:, _places(self.inside, width, columns)].T


def _side(length: int) -> int:
    if length > _SIDES[-1]:
        return scipy.fft.next_fast_len(length, real=True)
    return int(_SIDES[np.searchsorted(_SIDES, length)])


def _places(flat: ndarray, width: int, columns: int) -> ndarray:
    """Positions in an array of another width."""
    return flat if width == columns else flat + (flat // width) * (columns - width)


@lru_cache(maxsize=256)
def _table(rows: int, columns: int) -> ndarray:
    return green_table(rows, columns).astype(np.float32).ravel()


@lru_cache(maxsize=256)
def _weights(rows: int, columns: int) -> ndarray:
    return inverse_eigenvalues(rows, columns).astype(np.float32)
