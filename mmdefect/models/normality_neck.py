"""A neck that shows any segmentor how far its features are from those of good parts."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn

from mmdefect.functional.normality import NOBODY, BankMemory, PlaceMemory, smoothed
from mmdefect.registry import MODELS

KINDS = ('bank', 'place', 'auto')
#: Most good images that a memory of places is made of.
MAPS = 100


@MODELS.register_module()
class NormalityNeck(BaseModule):
    """Add what a memory of good parts says to the features, in front of another neck or of the heads.

    Each level gets a projection of the residual to what is normal and of its size. The projection starts at zero: the
    model begins exactly as it would without. The memories are filled by ``NormalityHook`` before the training and
    stored with the weights.

    Args:
        in_channels: of the levels of the backbone.
        neck: config of the neck behind; None hands the features to the heads.
        kind: ``bank``: compare with far-apart features of good images; ``place``: with mean and spread at the same
            place of the part; ``auto``: with what explains held-out good images better.
        levels: numbers of the levels that are compared; by default all but the finest, which costs most and tells
            least.
        entries: features of a level that a bank keeps.
        sizes_hw: of the level's maps of a whole image, for ``place``.
        shift: cells of the coarsest level that a part may lie aside, for ``place``.
        hidden: channels between residual and features; as many as the level has by default.
    """

    bank_memories: nn.ModuleDict
    chosen: Tensor

    def __init__(
        self,
        in_channels: Sequence[int],
        neck: dict | None = None,
        kind: str = 'bank',
        levels: Sequence[int] | None = None,
        entries: int = 1024,
        sizes_hw: Sequence[tuple[int, int]] | None = None,
        shift: int = 2,
        hidden: int | None = None,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        levels = list(range(min(1, len(in_channels) - 1), len(in_channels))) if levels is None else sorted(levels)
        if kind not in KINDS:
            raise ValueError(f'`kind` must be one of {", ".join(KINDS)}, got {kind!r}.')
        if not levels or not set(levels) <= set(range(len(in_channels))):
            raise ValueError(f'`levels` must be numbers from 0 to {len(in_channels) - 1}, got {levels}.')
        if kind != 'bank' and sizes_hw is None:
            raise ValueError(f"`kind='{kind}'` must know the sizes of the maps, got no `sizes_hw`; use kind='bank'.")
        self.levels, self.kind = levels, kind
        self.neck = None if neck is None else MODELS.build(neck)
        with torch.random.fork_rng(devices=[]):  # the other layers start as they would without
            torch.manual_seed(0)
            self.projections = nn.ModuleDict(
                {str(level): _projection(in_channels[level], hidden or in_channels[level]) for level in levels}
            )
        banks = {str(n): BankMemory(in_channels[n], entries) for n in levels if kind != 'place'}
        places = {str(n): PlaceMemory(in_channels[n], tuple(sizes_hw[n]), shift) for n in levels if kind != 'bank'}
        self.memories = nn.ModuleDict({'bank': nn.ModuleDict(banks), 'place': nn.ModuleDict(places)})
        #: number of the kind in KINDS; -1 before the memories are filled
        self.register_buffer('chosen', torch.tensor(-1))
        #: of the samples of the next batch: the image that each is, and whether it was flipped
        self.owners: Tensor | None = None
        self.flips: list[tuple[int, ...]] | None = None
        self._used: str | None = None
        if kind != 'bank':  # the coarsest first, each with the ratio of its height to that before
            heights = {n: sizes_hw[n][0] for n in levels}
            order = sorted(levels, key=heights.__getitem__)
            ratios = [max(1, round(heights[n] / heights[before])) for before, n in pairwise(order)]
            self.coarse_to_fine = list(zip(order, [0, *ratios], strict=True))

    def forward(self, inputs: Sequence[Tensor]):
        """Return what the neck behind makes of the features, or the features."""
        features = list(inputs)
        for level, evidence in self.evidence(features).items():
            evidence = evidence.to(features[level].dtype)
            features[level] = features[level] + self.projections[str(level)](evidence)
        return tuple(features) if self.neck is None else self.neck(tuple(features))

    @property
    def used(self) -> str:
        """The kind of the memories that are filled."""
        if self._used is None:
            if int(self.chosen) < 0:
                raise RuntimeError(
                    'the memories of a NormalityNeck must be filled before it is used, but are empty; train with '
                    'NormalityHook among the hooks, or load a trained checkpoint.'
                )
            self._used = KINDS[int(self.chosen)]
        return self._used

    @used.setter
    def used(self, kind: str) -> None:
        self.chosen.fill_(KINDS.index(kind))
        self._used = kind

    @property
    def whole_images(self) -> bool:
        """Whether images must not be cut into tiles: these would be compared with other places of the part."""
        return self.used == 'place'

    def evidence(self, features: Sequence[Tensor]) -> dict[int, Tensor]:
        """Return residuals and distance of each compared level, ``(B, C + 1, h, w)`` float32."""
        with torch.autocast(features[0].device.type, enabled=False):
            features = [smoothed(x) if n in self.levels else x for n, x in enumerate(features)]
            if self.used == 'bank':
                return {n: self.memories['bank'][str(n)](features[n], self.owners) for n in self.levels}
            return self._at_their_places(features)

    def _at_their_places(self, features: Sequence[Tensor]) -> dict[int, Tensor]:
        features = [_flipped(x, self.flips) for x in features]
        memories = self.memories['place']
        found = {}
        for level, place in self.places(features).items():
            memory = memories[str(level)]
            seen = None if self.owners is None else (self.owners != NOBODY) & (self.owners < memory.count)
            found[level] = _flipped(memory(features[level], place, seen), self.flips)
        return found

    def places(self, features: Sequence[Tensor]) -> dict[int, Tensor]:
        """Return where each sample lies on the maps of a whole image, ``(B, 2)`` rows and columns of each level."""
        found: dict[int, Tensor] = {}
        place = torch.zeros(1, 2, dtype=torch.int64, device=self.chosen.device)
        for level, ratio in self.coarse_to_fine:
            memory, own = self.memories['place'][str(level)], features[level]
            if not ratio:
                place = memory.locate(own)
            elif ratio > 1:
                place = memory.refine(own, place * ratio, ratio // 2)
            found[level] = place
        return found

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        number = int(state_dict.get(f'{prefix}chosen', self.chosen))
        for other in {'bank', 'place'} - {KINDS[number]} if number >= 0 else ():  # a checkpoint holds what is used
            for name, value in self.memories[other].state_dict().items():
                state_dict.setdefault(f'{prefix}memories.{other}.{name}', value)
        self._used = None
        super()._load_from_state_dict(state_dict, prefix, *args)


def level_shapes(backbone: dict, size_hw: tuple[int, int]) -> list[tuple[int, int, int]]:
    """Return channels, height and width of what a backbone makes of an image; it is built for that, without weights."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        network = MODELS.build({**backbone, 'init_cfg': None})
        network.eval()
        outputs = network(torch.zeros(1, 3, *size_hw))
    outputs = outputs if isinstance(outputs, (list, tuple)) else None
    if not outputs or not all(isinstance(one, Tensor) and one.ndim == 4 for one in outputs):
        raise ValueError(
            f'`normality` must find a backbone that gives a list of feature maps, but {backbone["type"]} gives '
            'something else; leave `normality` out for this model.'
        )
    return [tuple(one.shape[1:]) for one in outputs]


def fill(neck: NormalityNeck, embedded: Callable[[], Iterator[Sequence[Tensor]]], count: int, features: int) -> str:
    """Fill the memories of a neck and choose the kind; return in words what they leave unexplained.

    Args:
        neck: the neck.
        embedded: a function that iterates over the features ``(1, C, H, W)`` of the levels of each good image.
        count: number of the images.
        features: most features of a level that a bank is chosen from.
    """
    generator = torch.Generator().manual_seed(0)
    few = max(1, features // max(count, 1))
    rows: dict[int, list[Tensor]] = {n: [] for n in neck.levels}
    maps: dict[int, list[Tensor]] = {n: [] for n in neck.levels}
    for number, levels in enumerate(embedded()):
        for n in neck.levels:
            smooth = smoothed(levels[n])[0]
            flat = smooth.flatten(1).T
            rows[n].append(flat[torch.randperm(len(flat), generator=generator)[:few].to(flat.device)])
            if neck.kind != 'bank' and number < MAPS:
                maps[n].append(smooth.half())
    unexplained = {}
    kinds = [KINDS[int(neck.chosen)]] if int(neck.chosen) >= 0 else [k for k in KINDS[:2] if neck.kind in (k, 'auto')]
    if 'bank' in kinds:
        shares = []
        for n in neck.levels:
            owned = [torch.full((len(own),), number, device=own.device) for number, own in enumerate(rows[n])]
            shares.append(neck.memories['bank'][str(n)].fit(torch.cat(rows[n]), torch.cat(owned), generator))
        unexplained['bank'] = sum(shares) / len(shares)
    if 'place' in kinds:
        unexplained['place'] = _fill_places(neck, maps)
    neck.used = min(unexplained, key=unexplained.__getitem__)
    return ', '.join(f'{kind} {100 * share:.0f} %' for kind, share in unexplained.items())


def _fill_places(neck: NormalityNeck, maps: dict[int, list[Tensor]]) -> float:
    """Fill the places from the maps as they lie, again from the maps laid on the first mean, and take the units."""
    memories = {n: neck.memories['place'][str(n)] for n in neck.levels}
    for n, memory in memories.items():
        memory.fit(maps[n])

    def images() -> Iterator[tuple[list, dict[int, Tensor]]]:
        for number in range(len(maps[neck.levels[0]])):
            levels = [maps[n][number][None].float() if n in maps else None for n in range(max(neck.levels) + 1)]
            yield levels, neck.places(levels)

    laid: dict[int, list[Tensor]] = {n: [] for n in neck.levels}
    for levels, places in images():
        for n, memory in memories.items():
            laid[n].append(memory.laid(levels[n], places[n]).half())
    for n, memory in memories.items():
        memory.fit(laid[n])
    seen = torch.ones(1, dtype=torch.bool, device=neck.chosen.device)
    raw, squares, sizes = (dict.fromkeys(neck.levels, 0.0) for _ in range(3))
    for levels, places in images():
        for n, memory in memories.items():
            residual, spread = memory.residual(levels[n], places[n], seen)
            scaled = residual / spread
            raw[n] += float(residual.square().sum(1).mean())
            squares[n] += float(scaled.square().mean())
            sizes[n] += float(scaled.square().mean(1).sqrt().mean())
    shares = []
    for n, memory in memories.items():
        count = float(memory.count)
        memory.set_sizes(squares[n] / count, sizes[n] / count)
        shares.append(raw[n] / count / max(memory.total_variance, 1e-12))
    return sum(shares) / len(shares)


def _projection(channels: int, hidden: int) -> nn.Sequential:
    last = nn.Conv2d(hidden, channels, 1)
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    return nn.Sequential(nn.Conv2d(channels + 1, hidden, 1), nn.ReLU(), last)


def _flipped(features: Tensor, flips: Sequence[tuple[int, ...]] | None) -> Tensor:
    """Flip each sample in its dimensions."""
    if flips is None or not any(flips):
        return features
    return torch.stack([one.flip(dims) if dims else one for one, dims in zip(features, flips, strict=True)])
