"""How many images of each defect type go to which split: fractions, k shots, one third."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from mmdefect.datasets.groups import Unit
from mmdefect.datasets.samples import Sample

#: Images by split, and images left out.
Placement = tuple[dict[str, list[Sample]], list[Sample]]
SPLIT_NAMES = ('train', 'outer_val', 'val', 'test')


@dataclass(frozen=True)
class Fractions:
    """The same shares of every type, clean images included.

    Attributes:
        fractions: share by split; the shares must add up to 1.
    """

    fractions: Mapping[str, float] = field(default_factory=lambda: dict(train=0.6, val=0.2, test=0.2))
    name: ClassVar[str] = 'fractions'
    draws_first: ClassVar[bool] = False
    keeps_clean_sides: ClassVar[bool] = False

    def __post_init__(self) -> None:
        unknown = sorted(set(self.fractions) - set(SPLIT_NAMES))
        if unknown or not self.fractions:
            raise ValueError(f'`fractions` must name splits among {SPLIT_NAMES}, got {unknown or "none"}.')
        if not all(f >= 0 for f in self.fractions.values()) or abs(sum(self.fractions.values()) - 1) > 1e-6:
            raise ValueError(
                f'`fractions` must be at least 0 and add up to 1, got {dict(self.fractions)} with sum '
                f'{sum(self.fractions.values()):g}.'
            )

    @property
    def split_names(self) -> list[str]:
        """Splits that get images, in the usual order."""
        return [n for n in SPLIT_NAMES if self.fractions.get(n, 0) > 0]

    def place(self, units: Sequence[Unit], side: str | None = None) -> Placement:
        """Divide the units of one stratum, given in the order of drawing."""
        return _divide(units, {n: self.fractions[n] for n in self.split_names})


@dataclass(frozen=True)
class Third:
    """One third of every type, rounded down, for training and the rest for testing.

    The division papers on few-shot defect generation use. They choose checkpoints on the test images; here a part of
    the training third is the validation split, so that the test split does not depend on ``val_fraction``;
    ``val_fraction=0`` is their division.

    Attributes:
        val_fraction: share of the training third that goes to ``val``.
        outer_val_fraction: share of the training third that goes to ``outer_val``.
        draws_first: take the first third in the order of the file names instead of drawing by seed.
    """

    val_fraction: float = 0.2
    outer_val_fraction: float = 0.0
    draws_first: bool = False
    name: ClassVar[str] = 'third'
    keeps_clean_sides: ClassVar[bool] = True

    def __post_init__(self) -> None:
        _check_training_side(self.val_fraction, self.outer_val_fraction)

    @property
    def split_names(self) -> list[str]:
        """Splits that get images, in the usual order."""
        return [*_training_side(self.val_fraction, self.outer_val_fraction), 'test']

    def place(self, units: Sequence[Unit], side: str | None = None) -> Placement:
        """Divide the units of one stratum, given in the order of drawing; ``side`` is their fixed side."""
        sizes = [len(u.samples) for u in units]
        if side is None:
            third = sum(sizes) // 3 or int(len(sizes) > 1)
            sides = distribute(sizes, dict(train=third, test=sum(sizes) - third))
        else:
            sides = [side] * len(units)
        training, _ = _divide(
            [u for u, s in zip(units, sides, strict=True) if s == 'train'],
            _training_side(self.val_fraction, self.outer_val_fraction),
        )
        testing = [i for u, s in zip(units, sides, strict=True) if s == 'test' for i in u.samples]
        return {**training, 'test': testing}, []


@dataclass(frozen=True)
class KShot:
    """``k`` images of every defect type for training, ``k_val`` for validation, the rest for testing.

    With groups of near duplicates, k groups are drawn and one image of each is used; the others are left out, because
    k shots are k photographs. Clean images without a side of their own are divided by ``clean_train_fraction``, the
    training side of them in proportion to ``k``, ``k_outer_val`` and ``k_val``.

    Attributes:
        k: training images per type.
        k_val: validation images per type.
        k_outer_val: images per type for the outer level of bi-level learning.
        clean_train_fraction: share of the clean images that does not go to testing.
        draws_first: take the first images in the order of the file names instead of drawing by seed.
    """

    k: int
    k_val: int = 1
    k_outer_val: int = 0
    clean_train_fraction: float = 0.5
    draws_first: bool = False
    name: ClassVar[str] = 'kshot'
    keeps_clean_sides: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.k < 1 or self.k_val < 0 or self.k_outer_val < 0:
            raise ValueError(
                '`k` must be at least 1 and `k_val`, `k_outer_val` at least 0, got '
                f'{self.k}, {self.k_val}, {self.k_outer_val}.'
            )
        if not 0 < self.clean_train_fraction < 1:
            raise ValueError(f'`clean_train_fraction` must be between 0 and 1, got {self.clean_train_fraction}.')

    @property
    def shots(self) -> dict[str, int]:
        """Images per type by split, without ``test``."""
        shots = dict(train=self.k, outer_val=self.k_outer_val, val=self.k_val)
        return {n: c for n, c in shots.items() if c}

    @property
    def split_names(self) -> list[str]:
        """Splits that get images, in the usual order."""
        return [*self.shots, 'test']

    def place(self, units: Sequence[Unit], side: str | None = None) -> Placement:
        """Divide the units of one stratum, given in the order of drawing; ``side`` is the fixed side of clean ones.

        Raises:
            ValueError: if a defect type has too few units to leave one for testing.
        """
        if units[0].is_clean:
            return _divide(units, self._clean_shares(side))
        stratum, needed = units[0].stratum, sum(self.shots.values())
        if len(units) <= needed:
            raise ValueError(
                f'{self.k}-shot needs more than {needed} images or groups of the type {stratum!r} '
                f'({self.shots} and at least one for test), but there are {len(units)}; lower the shots.'
            )
        placed: dict[str, list[Sample]] = {}
        left_out: list[Sample] = []
        rest = iter(units)
        for name, count in self.shots.items():
            drawn = [next(rest) for _ in range(count)]
            placed[name] = [next(s for s in u.samples if s.stratum == stratum) for u in drawn]
            left_out += [s for u in drawn for s in u.samples if s not in placed[name]]
        placed['test'] = [s for u in rest for s in u.samples]
        return placed, left_out

    def _clean_shares(self, side: str | None) -> dict[str, float]:
        if side == 'test':
            return {'test': 1.0}
        training = {n: c / sum(self.shots.values()) for n, c in self.shots.items()}
        if side == 'train':
            return training
        return {
            **{n: f * self.clean_train_fraction for n, f in training.items()},
            'test': 1 - self.clean_train_fraction,
        }


def distribute(sizes: Sequence[int], targets: Mapping[str, int]) -> list[str]:
    """Give every unit to a split so that the splits come as close to their targets as whole units allow.

    Units of one image fill the splits one after the other, exactly. A unit that is larger than what is missing
    anywhere goes where most is missing. With at least as many units as splits with a target, every one of them gets a
    unit.

    Args:
        sizes: number of images of every unit, in the order of drawing.
        targets: images by split, adding up to the images of all units.

    Returns:
        The split of every unit.
    """
    missing = dict(targets)
    given: list[str] = []
    for size in sizes:
        name = next((n for n in missing if missing[n] >= size), None) or max(missing, key=lambda n: missing[n])
        given.append(name)
        missing[name] -= size
    wanted = [n for n in targets if targets[n] > 0]
    if len(sizes) >= len(wanted):
        for name in (n for n in wanted if n not in given):
            movable = [i for i, g in enumerate(given) if given.count(g) > 1]
            moved = min(movable, key=lambda i: (missing[given[i]], sizes[i], i))
            missing[given[moved]] += sizes[moved]
            missing[name] -= sizes[moved]
            given[moved] = name
    return given


def quotas(count: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Round ``count`` times ``shares`` to whole numbers that add up to ``count``.

    Largest remainder; with ``count`` at least the number of splits, every split gets at least one.
    """
    exact = {n: count * s for n, s in shares.items()}
    whole = {n: int(e + 1e-9) for n, e in exact.items()}
    order = sorted(shares, key=lambda n: (whole[n] - exact[n], list(shares).index(n)))
    for name in order[: count - sum(whole.values())]:
        whole[name] += 1
    if count >= len(shares):
        for name in shares:
            if whole[name] == 0:
                whole[max(whole, key=lambda n: whole[n])] -= 1
                whole[name] = 1
    return whole


def _divide(units: Sequence[Unit], shares: Mapping[str, float]) -> Placement:
    sizes = [len(u.samples) for u in units]
    given = distribute(sizes, quotas(sum(sizes), shares))
    return {n: [s for u, g in zip(units, given, strict=True) if g == n for s in u.samples] for n in shares}, []


def _training_side(val_fraction: float, outer_val_fraction: float) -> dict[str, float]:
    shares = dict(train=1 - val_fraction - outer_val_fraction, outer_val=outer_val_fraction, val=val_fraction)
    return {n: s for n, s in shares.items() if s > 0}


def _check_training_side(val_fraction: float, outer_val_fraction: float) -> None:
    if min(val_fraction, outer_val_fraction) < 0 or val_fraction + outer_val_fraction >= 1:
        raise ValueError(
            '`val_fraction` and `outer_val_fraction` must be at least 0 and together below 1, got '
            f'{val_fraction} and {outer_val_fraction}; they are shares of the training images.'
        )
