"""Anomaly detectors as deployed models: heat map and score, on their scales, decide as in the tests of the detector.

Score 1 is that of the farthest normal image held out in the fit, heat 1 the hottest pixel of such an image. The
probability of the class ``anomaly`` is ``heat / (1 + heat)``, of the heat whose maximum was brought to the score
(:func:`mmdefect.functional.heat_maps.decide_heat`). So a part is defective exactly when the score is
above the threshold; threshold t of the detector is probability ``t / (1 + t)``. A detector without heat maps decides
for all pixels at once.
"""

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmdefect.deployment.types import ModelInfo
from mmdefect.functional.density import Gaussian, KernelDensity
from mmdefect.functional.heat_maps import grid_shape, upsample_cells, upsample_scores
from mmdefect.inference.network import Preparation

CLASSES, PALETTE = ('normal', 'anomaly'), ((0, 0, 0), (230, 57, 57))


class Distance(nn.Module):
    """``distance`` of a density, ``(N, D)`` to ``(N,)``, in operations that export."""

    def __init__(self, density) -> None:
        super().__init__()
        self.bandwidth = density.bandwidth if isinstance(density, KernelDensity) else None
        self.gaussian = isinstance(density, Gaussian)
        center = density.mean if self.gaussian else density.points.mean(0)
        self.register_buffer('center', center.float())
        self.register_buffer('matrix', (density.whitening if self.gaussian else density.points - center).float())

    def forward(self, rows: Tensor) -> Tensor:
        """Return the distances."""
        rows = rows - self.center
        if self.gaussian:
            return (rows @ self.matrix.T).square().sum(1).sqrt()
        squares = rows.square().sum(1, keepdim=True) - 2 * rows @ self.matrix.T + self.matrix.square().sum(1)
        squares = squares.clamp(min=0)
        if self.bandwidth is None:
            return squares.amin(1).sqrt()
        nearest = squares.amin(1, keepdim=True)
        double = 2 * self.bandwidth**2
        soft = ((nearest - squares) / double).exp().sum(1).log() - math.log(len(self.matrix))
        return (nearest[:, 0] - double * soft).clamp(min=0).sqrt()


class HeatCore(nn.Module):
    """A detector as a function: ``(N, 3, h, w)`` pixels in 0..255 to ``(N, 2, h, w)`` heat and score, at least 0.

    The same as ``AnomalyDetector.score_images`` with its scales, written for one size so that it exports.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        settings = detector.settings
        self.features = detector.features
        self.size_hw, self.patch, self.quarters = tuple(settings.size_hw), settings.patch, detector.quarters
        self.mode = detector.mode
        self.network = self.features._fused((self.patch,) * 2 if self.mode == 'exact' else self.size_hw)
        self.image = Distance(detector.densities['image']) if settings.score == 'image' else None
        self.cells = Distance(detector.densities[self.mode]) if self.mode else None
        if self.mode == 'exact':
            self.cells_hw = grid_shape(self.size_hw, self.patch, settings.stride)
            for name, count in zip(('rows', 'columns'), self.cells_hw, strict=True):
                starts = torch.arange(count)[:, None] * settings.stride
                self.register_buffer(name, (starts + torch.arange(self.patch)).flatten())
            spread = [
                _units(count, lambda u: upsample_scores(u, self.patch, settings.stride)) for count in self.cells_hw
            ]
        elif self.mode == 'fast':
            with torch.no_grad():
                maps = self.features.read(torch.zeros(1, 3, *self.size_hw), self.network)
            self.map_sizes = [tuple(int(v) for v in m.shape[2:]) for m in maps]
            self.cells_hw = max(self.map_sizes)
            sides = zip(self.cells_hw, self.size_hw, strict=True)
            spread = [_units(count, lambda u, s=size: upsample_cells(u, (s, 1), self.patch)) for count, size in sides]
        if self.mode:
            self.register_buffer('down', spread[0])
            self.register_buffer('across', spread[1])
        scales = {name: (float(s.minimum), float(s.maximum - s.minimum)) for name, s in detector.scales.items()}
        self.score_scale, self.heat_scale = scales['score'], scales.get('heat')

    def forward(self, inputs: Tensor) -> Tensor:
        """Return heat and score."""
        scores, heats = [], []
        for quarter in self.quarters:
            prepared = self.features.prepare(_turn(inputs, quarter))
            maps = self.features.read(prepared, self.network) if self.image or self.mode == 'fast' else []
            if self.image is not None:
                scores.append(self.image(self.features.pooled(maps)))
            if self.mode == 'fast':
                heats.append(_turn(self._heat_of_maps(maps), -quarter))
            elif self.mode == 'exact':
                heats.append(_turn(self._heat_of_patches(prepared), -quarter))
        heat = sum(heats) / len(heats) if heats else None
        raw = sum(scores) / len(scores) if scores else heat.amax((1, 2, 3))
        score = ((raw - self.score_scale[0]) / self.score_scale[1]).clamp(min=0)[:, None, None, None]
        if heat is None:
            score = score.expand(-1, 1, *self.size_hw)
            return torch.cat([score, score], 1)
        heat = ((heat - self.heat_scale[0]) / self.heat_scale[1]).clamp(min=0)
        return torch.cat([heat, score.expand(-1, 1, *heat.shape[2:])], 1)

    def _heat_of_maps(self, maps: list[Tensor]) -> Tensor:
        cells = []
        for size, m in zip(self.map_sizes, maps, strict=True):
            window = max(1, round(self.patch * size[0] / self.size_hw[0]))
            if window > 1:
                window += 1 - window % 2
                m = functional.avg_pool2d(m, window, 1, window // 2, count_include_pad=False)
            if size != self.cells_hw:
                m = functional.interpolate(m, self.cells_hw, mode='bilinear', align_corners=False)
            cells.append(self.features._scaled(m.permute(0, 2, 3, 1).flatten(0, 2)))
        return self._spread(self.cells(torch.cat(cells, 1)))

    def _heat_of_patches(self, prepared: Tensor) -> Tensor:
        patches = prepared.index_select(2, self.rows).index_select(3, self.columns)
        patches = patches.reshape(-1, 3, self.cells_hw[0], self.patch, self.cells_hw[1], self.patch)
        patches = patches.permute(0, 2, 4, 1, 3, 5).reshape(-1, 3, self.patch, self.patch)
        return self._spread(self.cells(self.features.pooled(self.features.read(patches, self.network))))

    def _spread(self, distances: Tensor) -> Tensor:
        return self.down @ distances.reshape(-1, 1, *self.cells_hw) @ self.across.T


def open_detector(detector: nn.Module, path: str | Path) -> tuple[HeatCore, Preparation, ModelInfo]:
    """Return network, preparation and description of a fitted detector."""
    size_hw = tuple(detector.settings.size_hw)
    preparation = Preparation(size_hw, False, (0.0,) * 3, (1.0,) * 3, activation='odds')
    facts = (detector.settings.facts or {}).items()
    facts = {key: value for key, value in facts if isinstance(value, (str, int, float, bool))}
    threshold = detector.scales['score'].threshold
    facts |= dict(score=detector.settings.score, heat_maps=detector.mode or 'none', threshold=threshold)
    extra = dict(preparation=preparation.to_dict(), thresholds_from='held-out normal images', facts=facts)
    info = ModelInfo(CLASSES, PALETTE, (threshold / (1 + threshold),), size_hw, 'anomaly', Path(path).stem, extra)
    return HeatCore(detector).eval(), preparation, info


def _turn(maps: Tensor, quarters: int) -> Tensor:
    """Turn ``(N, C, h, w)`` as ``torch.rot90`` does, in operations that export."""
    quarters %= 4
    if quarters == 2:
        return maps.flip(2, 3)
    return maps if not quarters else maps.transpose(2, 3).flip(2 if quarters == 1 else 3)


def _units(count: int, upsample) -> Tensor:
    """Return the ``(size, count)`` matrix of a linear upsampling along one side: what it makes of unit vectors."""
    return upsample(torch.eye(count)[:, :, None])[:, :, 0].T.contiguous()
