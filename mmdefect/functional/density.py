"""Densities of normal embeddings: how far an embedding lies from normal ones, and a scale to read the distance on.

* :class:`Gaussian`: a normal distribution, with or without Ledoit-Wolf shrinkage (Ledoit and Wolf, A well-conditioned
  estimator for large-dimensional covariance matrices, 2004), as CutPaste (Li et al., CVPR 2021) puts it on its
  backbone's features. The estimate is that of scikit-learn's ``LedoitWolf``.
* :class:`KernelDensity`: a Gaussian kernel on each normal embedding, as scikit-learn's ``KernelDensity``. With a small
  bandwidth the score follows the nearest normal embeddings, with a large one the distance from their mean.
* :class:`Bank`: the distance to the nearest of a greedy core set of embeddings (Roth et al., Towards total recall in
  industrial anomaly detection, CVPR 2022). Randomly chosen points are mostly background, because most cells of a
  feature map are; points far apart keep what is rare among the normal ones, such as the tip of a screw. The weighting
  of the score by the neighbours of the nearest point is left out.

Fit them on normal images only: views with a pasted patch in the fit make the detector blind. All of them score float64
embeddings in float64 and anything else in float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Generator, Tensor

SHRINKAGES = ('ledoit_wolf', 'none')
_ROWS = 4096  # rows scored at a time by a Gaussian: what is computed stays in the processor's cache
_POINT_ROWS = 1024  # the same where a row is compared with many points
_BLOCK = 128  # columns of triangular and symmetric matrices multiplied at a time; the mirrored half is not computed
_WIDTH = 128  # of the random projection on which distances are compared while points of a bank are chosen


@dataclass
class Moments:
    """Sums over ``n`` embeddings ``x`` of width ``D``, about their own mean, in one pass; float64.

    Ledoit-Wolf needs the sum of the fourth powers of the distances from the mean, which is not known before the last
    embedding. The third-order sums move it to another mean, so that batches, folds and ranks add up exactly; the
    derivation is in docs/derivations/density.md.
    """

    count: int  # n
    mean: Tensor  # (D,)
    scatter: Tensor  # (D, D), sum of z z' with z = x - mean
    third: Tensor  # (D,), sum of |z|^2 z
    fourth: Tensor  # (), sum of |z|^4

    @classmethod
    def of(cls, embeddings: Tensor) -> Moments:
        """Return the moments of one batch, ``(N, D)`` float with at least one row.

        Products are made in the batch's own precision after its mean has been taken away, and summed in float64.
        """
        if embeddings.ndim != 2 or not len(embeddings) or not embeddings.is_floating_point():
            raise ValueError(
                f'`embeddings` must be a (N, D) batch of floats, got {tuple(embeddings.shape)} of {embeddings.dtype}; '
                'pool feature maps first.'
            )
        own = embeddings if embeddings.dtype == torch.float64 else embeddings.float()
        mean = own.mean(0)
        if not bool(torch.isfinite(mean).all()):
            raise ValueError(
                '`embeddings` must be finite, but a value is NaN or infinite; check the images and the precision of '
                'the backbone.'
            )
        z = own - mean
        rest = z.mean(0).double()  # what rounding left of the mean; small, so its own rounding does not count
        squares = (z * z).sum(1)
        centred = cls(len(z), rest, _gram(z), (squares @ z).double(), squares.double().square().sum())
        # The sums above are about the rounded mean; move them to the true one.
        return cls(len(z), mean.double() + rest, *centred._about(-rest, z_mean=rest))

    def _about(self, shift: Tensor, z_mean: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return scatter, third and fourth sums of ``z + shift``; ``z`` has the mean ``z_mean`` (None: zero)."""
        n, s, e = self.count, self.scatter, shift
        first = torch.zeros_like(e) if z_mean is None else n * z_mean
        trace, square = s.trace(), e @ e
        scatter = s + torch.outer(first, e) + torch.outer(e, first) + n * torch.outer(e, e)
        third = self.third + 2 * s @ e + trace * e + 2 * (first @ e) * e + square * first + n * square * e
        fourth = self.fourth + 4 * e @ (s @ e) + n * square**2 + 4 * (e @ self.third)
        return scatter, third, fourth + 2 * square * trace + 4 * square * (first @ e)

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both sets together."""
        if self.mean.shape != other.mean.shape:
            raise ValueError(
                f'merged moments must have one width, got {len(self.mean)} and {len(other.mean)}; take features of the '
                'same layers.'
            )
        count = self.count + other.count
        mean = self.mean + (other.mean - self.mean) * (other.count / count)
        sums = zip(self._about(self.mean - mean), other._about(other.mean - mean), strict=True)
        return Moments(count, mean, *(a + b for a, b in sums))

    def all_reduce(self) -> Moments:
        """Return the moments over all ranks; without a process group, these."""
        if not (dist.is_available() and dist.is_initialized()):
            return self
        first = torch.cat([self.mean * self.count, self.mean.new_tensor([self.count])])
        dist.all_reduce(first)
        count = int(first[-1])
        mean = first[:-1] / max(count, 1)
        sums = self._about(self.mean - mean)
        for value in sums:
            dist.all_reduce(value)
        return Moments(count, mean, *sums)


def _gram(z: Tensor) -> Tensor:
    """Return ``z' z`` in float64; of the symmetric product only the blocks on and above the diagonal are computed."""
    width = z.shape[1]
    if width <= _BLOCK:
        return (z.T @ z).double()
    result = torch.empty(width, width, dtype=torch.float64, device=z.device)
    for start in range(0, width, _BLOCK):
        rows = (z[:, start : start + _BLOCK].T @ z[:, start:]).double()
        result[start : start + _BLOCK, start:] = rows
        result[start:, start : start + _BLOCK] = rows.T
    return result


class _Density:
    """A dataclass of plain numbers and tensors that can be saved."""

    def state(self) -> dict[str, Tensor | float | int]:
        """Return what :meth:`from_state` makes the same density of; plain numbers, and tensors on the CPU."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        return {name: value.cpu() if isinstance(value, Tensor) else value for name, value in values.items()}

    @classmethod
    def from_state(cls, state: dict) -> _Density:
        """Make the density of a saved state."""
        return cls(**state)


@dataclass(frozen=True)
class Gaussian(_Density):
    """A normal distribution of width ``D``."""

    mean: Tensor  # (D,) float64
    cholesky: Tensor  # (D, D) float64, lower triangular; the covariance is ``cholesky @ cholesky.T``
    shrinkage: float  # weight of the scaled identity in the covariance, in [0, 1]
    count: int  # embeddings it was fitted on
    whitening: Tensor = field(init=False)  # inverse of ``cholesky``

    def __post_init__(self) -> None:
        identity = torch.eye(len(self.mean), dtype=self.cholesky.dtype, device=self.cholesky.device)
        whitening = torch.linalg.solve_triangular(self.cholesky, identity, upper=False)
        object.__setattr__(self, 'whitening', whitening)

    @property
    def covariance(self) -> Tensor:
        """``(D, D)`` float64."""
        return self.cholesky @ self.cholesky.T

    def distance(self, embeddings: Tensor) -> Tensor:
        """Return the Mahalanobis distance of each row of ``(N, D)``, ``(N,)``."""
        _check_width(embeddings, len(self.mean))
        mean, whitening = _like(embeddings, self.mean), _like(embeddings, self.whitening)
        # Taken away before the product and not after it: the whitened mean is large, and float32 would lose digits.
        return _by_rows(embeddings, _ROWS, lambda x: _lower_product_norm(x - mean, whitening))

    def log_density(self, embeddings: Tensor) -> Tensor:
        """Return the logarithm of the density of each row, ``(N,)``."""
        width = len(self.mean)
        volume = 2 * float(self.cholesky.diagonal().log().sum()) + width * math.log(2 * math.pi)
        return -0.5 * (self.distance(embeddings) ** 2 + volume)


def fit_gaussian(moments: Moments | Tensor, shrinkage: str = 'ledoit_wolf') -> Gaussian:
    """Fit a Gaussian.

    Args:
        moments: of the normal embeddings, or these themselves, ``(N, D)`` float.
        shrinkage: ``'ledoit_wolf'`` for the estimate of that name, ``'none'`` for the full maximum-likelihood
            covariance, which needs more embeddings than they have dimensions.
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
    if int(failed) or not bool(cholesky.diagonal().square().min() > 1e-12 * scale):
        raise ValueError(
            f'the covariance must be invertible, but the {moments.count} embeddings of width {len(covariance)} do not '
            'span all dimensions; take shrinkage="ledoit_wolf", more images or fewer features.'
        )
    return Gaussian(moments.mean, cholesky, weight, moments.count)


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
    return 0.0 if spread <= 0 else max(0.0, min(noise, spread) / spread)


def normalize_rows(embeddings: Tensor) -> Tensor:
    """Return the rows scaled to length 1, ``(N, D)``; zero rows stay zero."""
    return F.normalize(embeddings, dim=1)


@dataclass(frozen=True)
class KernelDensity(_Density):
    """Normal embeddings, ``points`` ``(M, D)`` float32, with a Gaussian kernel of standard deviation ``bandwidth``."""

    points: Tensor
    bandwidth: float

    def log_density(self, embeddings: Tensor) -> Tensor:
        """Return the logarithm of the density at each row of ``(N, D)``, ``(N,)``."""
        width = self.points.shape[1]
        constant = math.log(len(self.points)) + width * math.log(self.bandwidth) + 0.5 * width * math.log(2 * math.pi)
        scale = -0.5 / self.bandwidth**2
        return _reduce_squares(self.points, embeddings, lambda s: torch.logsumexp(s.mul_(scale), 1) - constant)

    def distance(self, embeddings: Tensor) -> Tensor:
        """Return a score that grows with the distance from the normal embeddings, in units of the space, ``(N,)``.

        ``sqrt(-2 h^2 log(mean kernel))``: the distance from a single point; the soft minimum of several.
        """
        width = self.points.shape[1]
        peak = -width * math.log(self.bandwidth) - 0.5 * width * math.log(2 * math.pi)
        return (2 * self.bandwidth**2 * (peak - self.log_density(embeddings))).clamp_min_(0).sqrt_()


def fit_kernel_density(
    embeddings: Tensor, bandwidth: float | None = None, max_points: int = 4096, generator: Generator | None = None
) -> KernelDensity:
    """Put a kernel on normal embeddings.

    Args:
        embeddings: ``(N, D)`` float.
        bandwidth: standard deviation of the kernel; None takes half of the median distance to the nearest neighbour.
        max_points: of more embeddings than this that many are sampled.
        generator: samples them; needed then.
    """
    if embeddings.ndim != 2 or len(embeddings) < 2:
        raise ValueError(
            f'`embeddings` must be (N, D) with at least two rows, got {tuple(embeddings.shape)}; add normal images.'
        )
    if bandwidth is not None and not bandwidth > 0:
        raise ValueError(f'`bandwidth` must be positive, got {bandwidth}; None chooses one from the data.')
    points = embeddings.float()
    if len(points) > max_points:
        if generator is None:
            raise ValueError(f'`generator` must be given to sample {max_points} of {len(points)} embeddings, got None.')
        points = points[torch.randperm(len(points), generator=generator)[:max_points].to(points.device)]
    if bandwidth is None:
        some = points[:512]
        distances = torch.cdist(some, points)
        distances[torch.arange(len(some)), torch.arange(len(some))] = math.inf
        bandwidth = max(0.5 * float(distances.amin(1).median()), 1e-6)
    return KernelDensity(points.contiguous(), float(bandwidth))


@dataclass(frozen=True)
class Bank(_Density):
    """Normal embeddings that lie far apart, ``points`` ``(M, D)`` float32, to compare with."""

    points: Tensor

    def distance(self, embeddings: Tensor) -> Tensor:
        """Return the Euclidean distance of each row of ``(N, D)`` to the nearest point, ``(N,)``."""
        return _reduce_squares(self.points, embeddings, lambda squares: squares.amin(1).sqrt())


def fit_bank(embeddings: Tensor, max_points: int = 4096, generator: Generator | None = None) -> Bank:
    """Keep at most ``max_points`` of ``(N, D)`` embeddings, chosen by :func:`far_apart`."""
    if embeddings.ndim != 2 or not len(embeddings):
        raise ValueError(
            f'`embeddings` must be (N, D) with at least one row, got {tuple(embeddings.shape)}; add normal images.'
        )
    if max_points < 1:
        raise ValueError(f'`max_points` must be at least 1, got {max_points}.')
    points = embeddings.float()
    return Bank(points[far_apart(points, max_points, generator)].contiguous())


def far_apart(embeddings: Tensor, count: int, generator: Generator | None = None) -> Tensor:
    """Choose embeddings such that every other one has a chosen one near it: greedily, the farthest next.

    The first is the one farthest from the mean.

    Args:
        embeddings: ``(N, D)`` float.
        count: how many to keep; fewer embeddings are all kept.
        generator: samples a random projection to 128 dimensions for wider embeddings, which keeps distances to about a
            tenth; None compares them as they are.

    Returns:
        ``(count,)`` int64 row numbers, in the order of choice; all rows in their order if there are not more.
    """
    if len(embeddings) <= count:
        return torch.arange(len(embeddings), device=embeddings.device)
    z = embeddings - embeddings.mean(0)
    if generator is not None and z.shape[1] > _WIDTH:
        mix = torch.randn(z.shape[1], _WIDTH, generator=generator).to(z.device, z.dtype)
        z = z @ (mix / _WIDTH**0.5)
    squares = z.square().sum(1)
    chosen = torch.empty(count, dtype=torch.int64, device=z.device)
    gap = torch.full_like(squares, torch.inf)  # of each row to the nearest chosen one, without its own square
    following = squares.argmax()
    for number in range(count):
        chosen[number] = following
        own = z[following]
        gap = torch.minimum(gap, own.square().sum() - 2 * (z @ own))
        gap[following] = -torch.inf
        following = (gap + squares).argmax()
    return chosen


@dataclass(frozen=True)
class ScoreScale:
    """Linear scale that a person can read: 0 is the most typical normal image, 1 the farthest one.

    It must come from normal images that the density has not seen: those it was fitted on lie nearer than any new one.
    :func:`fold_of` divides the normal images so that each is held out once.
    """

    minimum: float  # score that becomes 0
    maximum: float  # score that becomes 1
    threshold: float = 1.0  # on that scale; a score above it is an anomaly
    count: int = 0  # held-out normal images it was taken from

    def normalize(self, scores: Tensor) -> Tensor:
        """Return scores on the scale; beyond 1 for what is farther than every held-out normal image."""
        return (scores - self.minimum) / (self.maximum - self.minimum)

    def decide(self, scores: Tensor) -> Tensor:
        """Return for raw scores whether they are anomalies, bool."""
        return self.normalize(scores) > self.threshold

    def state(self) -> dict[str, float | int]:
        """Return plain numbers."""
        return asdict(self)


def fit_scale(held_out: Tensor, threshold: float = 1.0) -> ScoreScale:
    """Take the scale from the scores of held-out normal images, ``(N,)``."""
    low, high = (float(v) for v in held_out.double().aminmax()) if len(held_out) else (0.0, 0.0)
    if not high > low:
        raise ValueError(
            f'the scale needs at least two different scores of held-out normal images, got {len(held_out)} between '
            f'{low} and {high}; add normal images.'
        )
    return ScoreScale(low, high, float(threshold), len(held_out))


def fold_of(count: int, folds: int, seed: int = 0) -> Tensor:
    """Return the fold of each of ``count`` images, ``(count,)`` int64 in ``0 .. folds - 1``, of even sizes."""
    if not 2 <= folds <= count:
        raise ValueError(f'`folds` must be between 2 and the number of normal images, {count}, got {folds}.')
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    result = torch.empty(count, dtype=torch.int64)
    result[order] = torch.arange(count) % folds
    return result


def _check_width(embeddings: Tensor, width: int) -> None:
    if embeddings.ndim != 2 or embeddings.shape[1] != width:
        raise ValueError(
            f'`embeddings` must be (N, {width}) like those the density was fitted on, got {tuple(embeddings.shape)}; '
            'take features of the same layers.'
        )


def _like(embeddings: Tensor, values: Tensor) -> Tensor:
    """Return values on the device of the embeddings, in the precision they are scored in."""
    return values.to(embeddings.device, torch.float64 if embeddings.dtype == torch.float64 else torch.float32)


def _by_rows(embeddings: Tensor, rows: int, score: Callable[[Tensor], Tensor]) -> Tensor:
    """Return ``score`` of ``(N, D)`` embeddings, some rows at a time, ``(N,)``."""
    result = _like(embeddings, embeddings.new_empty(len(embeddings)))
    for start in range(0, len(embeddings), rows):
        piece = embeddings[start : start + rows]
        result[start : start + rows] = score(_like(piece, piece))
    return result


def _reduce_squares(points: Tensor, embeddings: Tensor, reduce: Callable[[Tensor], Tensor]) -> Tensor:
    """Reduce squared distances of embeddings to all points: ``(n, M)``, which may be overwritten, to ``(n,)``."""
    _check_width(embeddings, points.shape[1])
    points = _like(embeddings, points)
    middle = points.mean(0)  # taken away first: of rows of length 1 that nearly agree float32 would lose the difference
    points = points - middle
    norms = points.square().sum(1)

    def score(x: Tensor) -> Tensor:
        x = x - middle
        squares = torch.addmm(norms, x, points.T, alpha=-2).add_(x.square().sum(1, keepdim=True))
        return reduce(squares.clamp_min_(0))

    return _by_rows(embeddings, _POINT_ROWS, score)


def _lower_product_norm(z: Tensor, lower: Tensor) -> Tensor:
    """Return ``|lower z|`` of each row of ``(N, D)``; the zeros above the diagonal are not multiplied."""
    total = torch.zeros(len(z), dtype=z.dtype, device=z.device)
    for start in range(0, z.shape[1], _BLOCK):
        stop = start + _BLOCK
        part = z[:, :stop] @ lower[start:stop, :stop].T
        total += (part * part).sum(1)
    return total.sqrt_()
