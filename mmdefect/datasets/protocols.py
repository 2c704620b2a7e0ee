"""How many images of each defect type go to which split: fractions, k shots, one third, or what the layout says."""

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
    """The same shares, adding up to 1, of every type, clean images included."""

    fractions: Mapping[str, float] = field(default_factory=lambda: dict(train=0.6, val=0.2, test=0.2))
    name: ClassVar[str] = 'fractions'
    draws_first: ClassVar[bool] = False
    keeps_clean_sides: ClassVar[bool] = False

    def __post_init__(self) -> None:
        shares = self.fractions
        unknown = sorted(set(shares) - set(SPLIT_NAMES))
        if unknown or not shares:
            raise ValueError(f'`fractions` must name splits among {SPLIT_NAMES}, got {unknown or "none"}.')
        if not all(f >= 0 for f in shares.values()) or abs(sum(shares.values()) - 1) > 1e-6:
            raise ValueError(
                f'`fractions` must be at least 0 and add up to 1, got {dict(shares)} with sum {sum(shares.values()):g}.'
            )

    @property
    def split_names(self) -> list[str]:
        """Splits that get images, in the usual order."""
        return [n for n in SPLIT_NAMES if self.fractions.get(n, 0) > 0]

    def place(self, units: Sequence[Unit], side: str | None = None) -> Placement:
        """Divide the units of one stratum, given in sampled order."""
        return _divide(units, {n: self.fractions[n] for n in self.split_names}), []


@dataclass(frozen=True)
class Third:
    """One third of every type, rounded down, for training and the rest for testing.

    The division papers on few-shot defect generation use. They choose checkpoints on the test images; here a part of
    the training third is the validation split, so that the test split does not depend on ``val_fraction``;
    ``val_fraction=0`` is their division.
    """

    val_fraction: float = 0.2  # share of the training third
    outer_val_fraction: float = 0.0  # share of the training third
    draws_first: bool = False  # take the first third in the order of the file names instead of sampling by seed
    name: ClassVar[str] = 'third'
    keeps_clean_sides: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if min(self.val_fraction, self.outer_val_fraction) < 0 or self.val_fraction + self.outer_val_fraction >= 1:
            raise ValueError(
                '`val_fraction` and `outer_val_fraction` must be at least 0 and together below 1, got '
                f'{self.val_fraction} and {self.outer_val_fraction}; they are shares of the training images.'
            )

    @property
    def training_shares(self) -> dict[str, float]:
        """Shares of the training third by split."""
        train = 1 - self.val_fraction - self.outer_val_fraction
        shares = dict(train=train, outer_val=self.outer_val_fraction, val=self.val_fraction)
        return {n: s for n, s in shares.items() if s > 0}

    @property
    def split_names(self) -> list[str]:
        """Splits that get images, in the usual order."""
        return [*self.training_shares, 'test']

    def place(self, units: Sequence[Unit], side: str | None = None) -> Placement:
        """Divide the units of one stratum, given in sampled order; ``side`` is their fixed side."""
        sizes = [len(u.samples) for u in units]
        third = sum(sizes) // 3 or int(len(sizes) > 1)
        sides = [side] * len(units) if side else distribute(sizes, dict(train=third, test=sum(sizes) - third))
        training = [u for u, s in zip(units, sides, strict=True) if s == 'train']
        testing = [i for u, s in zip(units, sides, strict=True) if s == 'test' for i in u.samples]
        return {**_divide(training, self.training_shares), 'test': testing}, []


@dataclass(frozen=True)
class KShot:
    """``k`` images of every defect type for training, ``k_val`` for validation, the rest for testing.

    With groups of near duplicates, k groups are sampled and one image of each is used; the others are left out, because
    k shots are k different parts. Clean images without a side of their own are divided by ``clean_train_fraction``, the
    training side of them in proportion to ``k``, ``k_outer_val`` and ``k_val``.
    """

    k: int
    k_val: int = 1
    k_outer_val: int = 0  # for the outer level of bi-level learning
    clean_train_fraction: float = 0.5  # share of the clean images that does not go to testing
    draws_first: bool = False  # take the first images in the order of the file names instead of sampling by seed
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
        """Divide the units of one stratum, given in sampled order; ``side`` is the fixed side of clean ones."""
        stratum, needed = units[0].stratum, sum(self.shots.values())
        if units[0].is_clean:
            training = {'train': 1.0, 'test': 0.0}.get(side, self.clean_train_fraction)
            shares = {n: c / needed * training for n, c in self.shots.items()} | {'test': 1 - training}
            return _divide(units, {n: share for n, share in shares.items() if share}), []
        if len(units) <= needed:
            raise ValueError(
                f'{self.k}-shot needs more than {needed} images or groups of the type {stratum!r} '
                f'({self.shots} and at least one for test), but there are {len(units)}; lower the shots.'
            )
        placed: dict[str, list[Sample]] = {}
        left_out: list[Sample] = []
        rest = iter(units)
        for name, count in self.shots.items():
            taken = [next(rest) for _ in range(count)]
            placed[name] = [next(s for s in u.samples if s.stratum == stratum) for u in taken]
            left_out += [s for u in taken for s in u.samples if s not in placed[name]]
        placed['test'] = [s for u in rest for s in u.samples]
        return placed, left_out


@dataclass(frozen=True)
class Given:
    """The division of the layout itself; a part of its training images, of every type, validates.

    For VisA as downloaded that is the official division, which has no validation split.
    """

    val_fraction: float = 0.2  # share of the training images
    outer_val_fraction: float = 0.0  # share of the training images
    name: ClassVar[str] = 'given'
    draws_first: ClassVar[bool] = False
    keeps_clean_sides: ClassVar[bool] = False
    __post_init__ = Third.__post_init__
    training_shares = Third.training_shares
    split_names = Third.split_names

    def place(self, units: Sequence[Unit], side: str | None = None) -> Placement:
        """Divide the units of one stratum of one side of the layout; what no side names is left out."""
        images = [s for u in units for s in u.samples]
        if side == 'train':
            return _divide(units, self.training_shares), []
        return ({'test': images}, []) if side == 'test' else ({}, images)


def distribute(sizes: Sequence[int], targets: Mapping[str, int]) -> list[str]:
    """Return a split for every unit, such that the splits come as close to their targets as whole units allow.

    Units of one image fill the splits one after the other, exactly. A unit that is larger than what is missing
    anywhere goes where most is missing. With at least as many units as splits with a target, every one of them gets a
    unit.

    Args:
        sizes: number of images of every unit, in sampled order.
        targets: images by split, adding up to the images of all units.
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
    order = sorted(shares, key=lambda n: whole[n] - exact[n])
    for name in order[: count - sum(whole.values())]:
        whole[name] += 1
    if count >= len(shares):
        for name in shares:
            if whole[name] == 0:
                whole[max(whole, key=lambda n: whole[n])] -= 1
                whole[name] = 1
    return whole


def _divide(units: Sequence[Unit], shares: Mapping[str, float]) -> dict[str, list[Sample]]:
    sizes = [len(u.samples) for u in units]
    given = distribute(sizes, quotas(sum(sizes), shares))
    return {n: [s for u, g in zip(units, given, strict=True) if g == n for s in u.samples] for n in shares}
