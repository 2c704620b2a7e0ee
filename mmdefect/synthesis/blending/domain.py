"""The factor of a defect mask: everything about a Poisson paste that does not depend on the images.

It is translation-invariant, so a library makes it once per donor and pastes with it anywhere inside the image.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from mmdefect.synthesis.blending.lattice import MAX_EXTENSION_ENTRIES, LatticeSolver
from mmdefect.synthesis.blending.sine import FilledRectangleSolver
from mmdefect.synthesis.blending.sparse import SparseSolver

BACKENDS = ('lattice', 'rectangle', 'sparse')
Solver = LatticeSolver | FilledRectangleSolver | SparseSolver

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
            raise ValueError(
                f'`mask` must have shape (h, w) or (1, h, w), got {tuple(mask.shape)}. '
                'Make one factor per mask of a batch.'
            )
        if backend is not None and backend not in BACKENDS:
            raise ValueError(f'`backend` must be one of {", ".join(BACKENDS)} or None, got {backend!r}.')
        self.mask = (mask if mask.dtype == torch.bool else mask >= MASK_THRESHOLD).numpy().copy()
        if self.mask.size and self.mask.all():
            raise ValueError(
                f'`mask` of shape {self.mask.shape} must leave at least one pixel free: its values are '
                'the boundary condition. Cut the crop one pixel larger.'
            )
        self._requested_backend = backend
        self.prepared = False
        self._setup()

    def _setup(self) -> None:
        mask = self.mask
        beside = np.zeros_like(mask)
        beside[:-1] |= mask[1:]
        beside[1:] |= mask[:-1]
        beside[:, :-1] |= mask[:, 1:]
        beside[:, 1:] |= mask[:, :-1]
        self._flat = np.flatnonzero(mask), np.flatnonzero(beside & ~mask)
        self._index: dict[torch.device, tuple[Tensor, Tensor]] = {}
        self._solver: Solver | None = None

    def prepare(self) -> PoissonFactor:
        """Do once what makes every later paste cheap; returns itself. A pickled copy does so at its first use."""
        if not self.prepared:
            self.prepared, self._solver = True, None
            if self.num_pixels:
                self._make_solver()
        return self

    def __getstate__(self) -> dict:
        return {'mask': self.mask, 'backend': self._requested_backend, 'prepared': self.prepared}

    def __setstate__(self, state: dict) -> None:
        self.mask, self._requested_backend, self.prepared = state['mask'], state['backend'], state['prepared']
        self._setup()

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the crop that the factor was made for."""
        return self.mask.shape

    @property
    def num_pixels(self) -> int:
        """Number of unknowns: pixels of the mask."""
        return len(self._flat[0])

    @property
    def num_boundary(self) -> int:
        """Number of pixels beside the mask whose values are prescribed."""
        return len(self._flat[1])

    @property
    def places(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions of domain and boundary in the flattened crop, as arrays."""
        return self._flat

    def indices(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Positions of domain and boundary in the flattened crop: ``(n,)`` and ``(m,)`` int64."""
        if device not in self._index:
            self._index[device] = tuple(torch.from_numpy(places).to(device) for places in self._flat)
        return self._index[device]

    @property
    def solver(self) -> Solver:
        """The solver, made when it is first needed; there is none for an empty mask."""
        if self._solver is None:
            self._make_solver()
        return self._solver

    @property
    def backend(self) -> str:
        """Which of ``BACKENDS`` is in use."""
        return self.solver.name

    def _make_solver(self) -> None:
        if not self.num_pixels:
            raise ValueError('`mask` must have a pixel to be solved for, got an empty mask. Skip this defect.')
        ring, ghosts = np.stack(np.divmod(self._flat[1], self.shape[1]), axis=1), _ghosts(self.mask)
        (top, left), (bottom, right) = ring.min(axis=0).tolist(), ring.max(axis=0).tolist()
        first, last = divmod(int(self._flat[0][0]), self.shape[1]), divmod(int(self._flat[0][-1]), self.shape[1])
        extent = last[0] - first[0] + 1, last[1] - first[1] + 1
        is_rectangle = (
            extent[0] > 0 < extent[1]
            and extent[0] * extent[1] == self.num_pixels
            and bool(self.mask[first[0] : last[0] + 1, first[1] : last[1] + 1].all())
        )
        backend = self._requested_backend or choose_backend(
            self.num_pixels,
            len(ring) + len(ghosts),
            (bottom - top + 1) * (right - left + 1),
            is_rectangle,
            self.prepared,
        )
        if backend == 'rectangle':
            if not is_rectangle:
                raise ValueError("`mask` must be one full rectangle for backend='rectangle'. Leave the choice to None.")
            self._solver = FilledRectangleSolver(self.shape, first, extent, ring)
        elif backend == 'lattice':
            self._solver = LatticeSolver(self.mask, ring, ghosts)
        else:
            self._solver = SparseSolver(self.mask, ring)
        if self.prepared:
            self._solver.prepare()


def _ghosts(mask: np.ndarray) -> np.ndarray:
    """``(k, 2)`` places beyond the edge of the array beside a mask pixel."""
    height, width = mask.shape
    places = []
    for line, axis, position in ((mask[0], 0, -1), (mask[-1], 0, height), (mask[:, 0], 1, -1), (mask[:, -1], 1, width)):
        along = np.flatnonzero(line)
        if len(along):
            across = np.full(len(along), position)
            places.append(np.stack((across, along) if axis == 0 else (along, across), axis=1))
    return np.concatenate(places) if places else np.empty((0, 2), dtype=np.int64)


def factorize(mask: Tensor | np.ndarray, backend: str | None = None) -> PoissonFactor:
    """Make the factor of a mask and prepare it for many pastes.

    Args:
        mask: ``(h, w)`` or ``(1, h, w)``, as for :class:`PoissonFactor`.
        backend: one of ``BACKENDS``; None takes the faster one.

    Returns:
        The factor; keep it with the donor.
    """
    return PoissonFactor(mask, backend).prepare()


def choose_backend(num_pixels: int, num_boundary: int, box_area: int, is_rectangle: bool, prepared: bool) -> str:
    """The backend with the lowest cost of one paste of three channels on one CPU thread.

    The constants are microseconds, fitted to what ``benchmarks/poisson.py`` measures.

    Args:
        num_pixels: pixels of the mask.
        num_boundary: places around the mask.
        box_area: pixels of the bounding box with its ring.
        is_rectangle: the mask is one full rectangle.
        prepared: the factor will be used many times, so only the paste counts; otherwise the factorisation too.

    Returns:
        One of ``BACKENDS``.
    """
    if prepared and num_pixels * num_boundary <= MAX_EXTENSION_ENTRIES:
        return 'lattice'
    if is_rectangle and not prepared:
        return 'rectangle'
    lattice = 30 + 1.3e-4 * num_boundary**2 + 2.2e-2 * box_area
    sparse = 25 + 3.6e-3 * num_pixels * max(4.0, 2.45 * math.log2(num_pixels) - 11.2)
    if not prepared:
        lattice += 115 + 4.8e-2 * box_area + 6.4e-4 * num_boundary**2 + 8e-6 * num_boundary**3
        sparse += 350 + num_pixels * (0.5 + 0.012 * math.sqrt(num_pixels))
    return 'lattice' if lattice <= sparse else 'sparse'
