"""The factor of a defect mask: everything about a Poisson paste that does not depend on the pictures.

It is translation-invariant, so a library makes it once per donor and pastes with it anywhere inside the image.
"""
from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from mmdefect.synthesis.blending.lattice import LatticeSolver
from mmdefect.synthesis.blending.sparse import SparseSolver

BACKENDS = ('lattice', 'sparse')

# A mask value from here on belongs to the domain; bool masks and probabilities mean the same by it.
MASK_THRESHOLD = 0.5


class PoissonFactor:
    """Domain, boundary and solver of one mask.

    Built lazily and pickled as the bare mask, so that it can travel to a spawned worker.

    Args:
        mask: ``(h, w)`` or ``(1, h, w)``, bool, or number in [0, 1] of which values >= 0.5 belong to the domain. Mask
            pixels on the edge of the array are taken to lie on the edge of the image: they get one-sided rows. Leave a
            ring of one pixel elsewhere.
        backend: one of ``BACKENDS``; None takes the one that the measured cost model calls faster.

    Raises:
        ValueError: if no pixel of the array is left outside the mask, or the backend is unknown.
    """

    def __init__(self, mask: Tensor | np.ndarray, backend: str | None = None) -> None:
        mask = torch.as_tensor(mask).detach().cpu()
        if mask.dim() == 3 and len(mask) == 1:
            mask = mask[0]
        if mask.dim() != 2:
            raise ValueError(f'`mask` must have shape (h, w) or (1, h, w), got {tuple(mask.shape)}. '
                             'Make one factor per mask of a batch.')
        if backend is not None and backend not in BACKENDS:
            raise ValueError(f'`backend` must be one of {", ".join(BACKENDS)} or None, got {backend!r}.')
        self.mask = (mask if mask.dtype == torch.bool else mask >= MASK_THRESHOLD).numpy().copy()
        if self.mask.size and self.mask.all():
            raise ValueError(f'`mask` of shape {self.mask.shape} must leave at least one pixel free: its values are the '
                             'boundary condition. Cut the crop one pixel larger.')
        self._requested_backend = backend
        self._setup()

    def _setup(self) -> None:
        height, width = self.mask.shape
        stride = width + 2
        padded = np.zeros((height + 2, stride), dtype=bool)
        padded[1:-1, 1:-1] = self.mask
        domain = np.flatnonzero(padded)
        beside = np.zeros_like(padded)
        inner = padded[1:-1, 1:-1]
        beside[:-2, 1:-1] |= inner
        beside[2:, 1:-1] |= inner
        beside[1:-1, :-2] |= inner
        beside[1:-1, 2:] |= inner
        beside &= ~padded
        self.touches_edge = bool(beside[0].any() or beside[-1].any() or beside[:, 0].any() or beside[:, -1].any())
        image_part = np.zeros_like(padded)
        image_part[1:-1, 1:-1] = beside[1:-1, 1:-1]
        self._points = np.stack(np.divmod(domain, stride), axis=1)
        self._ring_points = np.stack(np.divmod(np.flatnonzero(image_part), stride), axis=1)
        self._ghost_points = np.stack(np.divmod(np.flatnonzero(beside & ~image_part), stride), axis=1)
        self._index = {}
        self._solver: LatticeSolver | SparseSolver | None = None

    def __getstate__(self) -> dict:
        return {'mask': self.mask, 'backend': self._requested_backend}

    def __setstate__(self, state: dict) -> None:
        self.mask, self._requested_backend = state['mask'], state['backend']
        self._setup()

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the crop that the factor was made for."""
        return self.mask.shape

    @property
    def num_pixels(self) -> int:
        """Number of unknowns: pixels of the mask."""
        return len(self._points)

    @property
    def num_boundary(self) -> int:
        """Number of pixels beside the mask whose values are prescribed."""
        return len(self._ring_points)

    @property
    def backend(self) -> str:
        """The backend in use."""
        if self._requested_backend:
            return self._requested_backend
        extent = np.ptp(self._points, axis=0) + 3 if self.num_pixels else (1, 1)
        return choose_backend(self.num_pixels, self.num_boundary + len(self._ghost_points), int(extent[0] * extent[1]))

    def indices(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Positions of domain and boundary in the flattened crop: ``(n,)`` and ``(m,)`` int64."""
        if device not in self._index:
            stride = (self.shape[1], 1)
            self._index[device] = tuple(torch.from_numpy((points - 1) @ stride).to(device)
                                        for points in (self._points, self._ring_points))
        return self._index[device]

    @property
    def solver(self) -> LatticeSolver | SparseSolver:
        """The solver, made when it is first needed."""
        if self._solver is None:
            if self.backend == 'sparse':
                self._solver = SparseSolver(self.mask, self._ring_points - 1)
            else:
                self._solver = LatticeSolver(self._points, self._ring_points, self._ghost_points,
                                             self._ghost_neighbours())
        return self._solver

    def _ghost_neighbours(self) -> np.ndarray:
        """The one mask pixel beside each pixel beyond the edge: straight inwards."""
        height, width = self.shape
        inwards = self._ghost_points.copy()
        np.clip(inwards[:, 0], 1, height, out=inwards[:, 0])
        np.clip(inwards[:, 1], 1, width, out=inwards[:, 1])
        return inwards


def factorize(mask: Tensor | np.ndarray, backend: str | None = None) -> PoissonFactor:
    """Make the factor of a mask and prepare it for many pastes.

    Args:
        mask: ``(h, w)`` or ``(1, h, w)``, as for :class:`PoissonFactor`.
        backend: one of ``BACKENDS``; None takes the faster one.

    Returns:
        The factor; keep it with the donor.
    """
    factor = PoissonFactor(mask, backend)
    if factor.num_pixels:
        factor.solver.prepare()
    return factor


def choose_backend(num_pixels: int, num_boundary: int, box_area: int) -> str:
    """The backend with the lower measured cost of one paste of three channels on one thread.

    Args:
        num_pixels: pixels of the mask.
        num_boundary: pixels around the mask.
        box_area: pixels of the bounding box with its ring.

    Returns:
        One of ``BACKENDS``; the constants are in ``benchmarks/poisson.py --costs``.
    """
    if num_pixels * num_boundary <= 2**17:
        return 'lattice'
    lattice = 45 + 1.3e-4 * num_boundary**2 + 1.4e-2 * box_area
    sparse = 25 + 3.6e-3 * num_pixels * max(4.0, 2.45 * math.log2(num_pixels) - 11.2)
    return 'lattice' if lattice <= sparse else 'sparse'
