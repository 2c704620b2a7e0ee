"""Gaussian density of normal embeddings: fit with or without Ledoit-Wolf shrinkage, distance by Cholesky.

Sources: Ledoit and Wolf, A well-conditioned estimator for large-dimensional covariance matrices, 2004; the Gaussian
density of CutPaste (Li et al., CVPR 2021) on its backbone's features. The estimate is that of scikit-learn's
``LedoitWolf``. Fit it on normal images only: views with a pasted patch in the fit make the detector blind.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mmdefect.functional.density_moments import Moments

SHRINKAGES = ('ledoit_wolf', 'none')
_ROWS = 4096  # rows scored at a time: what is computed stays in the processor's cache


@dataclass(frozen=True)
class Gaussian:
    """A normal distribution of width ``D``.

    Attributes:
        mean: ``(D,)`` float64.
        cholesky: ``(D, D)`` float64, lower triangular; covariance is ``cholesky @ cholesky.T``.
        whitening: ``(D, D)`` float64, its inverse.
        shrinkage: weight of the scaled identity in the covariance, in [0, 1].
        count: embeddings it was fitted on.
    """

    mean: Tensor
    cholesky: Tensor
    whitening: Tensor
    shrinkage: float
    count: int

    @property
    def covariance(self) -> Tensor:
        """``(D, D)`` float64."""
        return self.cholesky @ self.cholesky.T

    def distance(self, embeddings: Tensor) -> Tensor:
        """Return the Mahalanobis distance of each row.

        Args:
            embeddings: ``(N, D)`` float; float64 is scored in float64, anything else in float32.

        Returns:
            ``(N,)`` in that precision, on the device of the embeddings.
        """
        if embeddings.ndim != 2 or embeddings.shape[1] != len(self.mean):
            raise ValueError(
                f'`embeddings` must be (N, {len(self.mean)}) like those the density was fitted on, got '
                f'{tuple(embeddings.shape)}; take features of the same layers.'
            )
        dtype = torch.float64 if embeddings.dtype == torch.float64 else torch.float32
        mean = self.mean.to(embeddings.device, dtype)
        whitening = self.whitening.to(embeddings.device, dtype)
        result = torch.empty(len(embeddings), dtype=dtype, device=embeddings.device)
        # Taken away before the product and not after it: the whitened mean is large, and float32 would lose digits.
        for start in range(0, len(embeddings), _ROWS):
            z = embeddings[start : start + _ROWS].to(dtype) - mean
            result[start : start + _ROWS] = _lower_product_norm(z, whitening)
        return result

    def log_density(self, embeddings: Tensor) -> Tensor:
        """Return the logarithm of the density of each row, ``(N,)``."""
        width = len(self.mean)
        volume = 2 * float(self.cholesky.diagonal().log().sum()) + width * math.log(2 * math.pi)
        return -0.5 * (self.distance(embeddings) ** 2 + volume)

    def state(self) -> dict[str, Tensor | float | int]:
        """Return what :meth:`from_state` makes the same density of; plain tensors and numbers."""
        return dict(mean=self.mean.cpu(), cholesky=self.cholesky.cpu(), shrinkage=self.shrinkage, count=self.count)

    @classmethod
    def from_state(cls, state: dict) -> Gaussian:
        """Make the density of a saved state."""
        cholesky = state['cholesky'].double()
        return cls(
            state['mean'].double(),
            cholesky,
            _inverse_of_lower(cholesky),
            float(state['shrinkage']),
            int(state['count']),
        )


def fit_gaussian(moments: Moments | Tensor, shrinkage: str = 'ledoit_wolf') -> Gaussian:
    """Fit a Gaussian.

    Args:
        moments: of the normal embeddings, or these themselves, ``(N, D)`` float.
        shrinkage: ``'ledoit_wolf'`` for the estimate of that name, ``'none'`` for the full maximum-likelihood covariance,
            which needs more embeddings than they have dimensions.

    Raises:
        ValueError: if there are too few embeddings, or their covariance cannot be inverted.
    """
    if shrinkage not in SHRINKAGES:
        raise ValueError(f'`shrinkage` must be one of {", ".join(SHRINKAGES)}, got {shrinkage!r}.')
    if isinstance(moments, Tensor):
        moments = Moments.of(moments)
    if moments.count < 2:
        raise ValueError(f'a Gaussian needs at least two embeddings, got {moments.count}; add normal images.')
    weight = ledoit_wolf_shrinkage(moments) if shrinkage == 'ledoit_wolf' else 0.0
    covariance = moments.scatter / moments.count
    scale = covariance.trace() / len(covariance)
    covariance = (1 - weight) * covariance
    covariance.diagonal().add_(weight * scale)
    cholesky, failed = torch.linalg.cholesky_ex(covariance)
    smallest = cholesky.diagonal().square().min()
    if int(failed) or not bool(smallest > 1e-12 * scale):
        raise ValueError(
            f'the covariance must be invertible, but the {moments.count} embeddings of width {len(covariance)} do not '
            'span all dimensions; take shrinkage="ledoit_wolf", more images or fewer features.'
        )
    return Gaussian(moments.mean, cholesky, _inverse_of_lower(cholesky), weight, moments.count)


def ledoit_wolf_shrinkage(moments: Moments) -> float:
    """Return the weight of the scaled identity that minimises the expected squared error, in [0, 1]."""
    n, width = moments.count, len(moments.mean)
    if width == 1:
        return 0.0
    covariance = moments.scatter / n
    squared = float(covariance.square().sum())
    mean_variance = float(covariance.trace()) / width
    noise = (float(moments.fourth) / n - squared) / (width * n)
    spread = squared / width - mean_variance**2
    if spread <= 0:
        return 0.0
    return max(0.0, min(noise, spread) / spread)


def normalize_rows(embeddings: Tensor) -> Tensor:
    """Return the rows scaled to length 1, ``(N, D)``; zero rows stay zero."""
    return F.normalize(embeddings, dim=1)


def _inverse_of_lower(cholesky: Tensor) -> Tensor:
    identity = torch.eye(len(cholesky), dtype=cholesky.dtype, device=cholesky.device)
    return torch.linalg.solve_triangular(cholesky, identity, upper=False)


def _lower_product_norm(z: Tensor, lower: Tensor, block: int = 128) -> Tensor:
    """Return ``|lower z|`` of each row of ``(N, D)``; the zeros above the diagonal are not multiplied."""
    width = z.shape[1]
    total = torch.zeros(len(z), dtype=z.dtype, device=z.device)
    for start in range(0, width, block):
        stop = min(start + block, width)
        part = z[:, :stop] @ lower[start:stop, :stop].T
        total += (part * part).sum(1)
    return total.sqrt_()
