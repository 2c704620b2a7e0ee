"""Anomaly detectors as deployed models: the heat map, on its scale, decides pixel by pixel.

Heat 1 is that of the hottest pixel of the farthest normal image held out in the fit. The probability of the class
``anomaly`` is ``heat / (1 + heat)``: 0.5 at heat 1, and threshold t means heat ``t / (1 - t)``.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmdefect.deployment.types import ModelInfo
from mmdefect.functional.heat_maps import upsample_cells
from mmdefect.inference.network import Preparation

CLASSES, PALETTE = ('normal', 'anomaly'), ((0, 0, 0), (230, 57, 57))


class HeatCore(nn.Module):
    """A detector as a function: ``(N, 3, h, w)`` pixels in 0..255 to ``(N, 1, h, w)`` heat on its scale, at least 0.

    The same as ``AnomalyDetector.heat_maps`` of mode ``fast``, written for one size so that it exports.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        density, turns = detector.densities.get('fast'), detector.settings.turns
        if density is None or not hasattr(density, 'whitening'):
            kinds = {k: type(d).__name__ for k, d in detector.densities.items()} or 'none'
            raise ValueError(
                f'a deployed detector must have a fast heat map of a Gaussian density, but it has {kinds}; fit it with '
                '`--localize fast` and another `--density` than kde and bank.'
            )
        if turns != 1:
            fact = f'but it was fitted with turns={turns}; fit it with `--turns 1`.'
            raise ValueError(f'a deployed detector must see the image as it lies, {fact}')
        self.features, self.network = detector.features, detector.features._fused()
        self.size_hw, self.patch = tuple(detector.settings.size_hw), detector.settings.patch
        self.register_buffer('center', density.mean.float())
        self.register_buffer('whitening', density.whitening.float())
        with torch.no_grad():
            maps = self.features.read(torch.zeros(1, 3, *self.size_hw), self.network)
        self.map_sizes = [tuple(int(v) for v in m.shape[2:]) for m in maps]
        self.cells_hw = max(self.map_sizes)
        # the spreading over pixels is linear: its two matrices are what it makes of unit vectors
        for name, cells, size in zip(('down', 'across'), self.cells_hw, self.size_hw, strict=True):
            self.register_buffer(name, _spread(cells, size, self.patch))
        scale = detector.scales['heat']
        self.low, self.range = float(scale.minimum), float(scale.maximum - scale.minimum)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the heat."""
        maps = self.features.read(self.features.prepare(inputs), self.network)
        cells = []
        for size, m in zip(self.map_sizes, maps, strict=True):
            window = max(1, round(self.patch * size[0] / self.size_hw[0]))
            if window > 1:
                window += 1 - window % 2
                m = functional.avg_pool2d(m, window, 1, window // 2, count_include_pad=False)
            if size != self.cells_hw:
                m = functional.interpolate(m, self.cells_hw, mode='bilinear', align_corners=False)
            rows = m.permute(0, 2, 3, 1)
            cells.append(functional.normalize(rows, dim=3) if self.features.normalize else rows)
        distance = ((torch.cat(cells, 3) - self.center) @ self.whitening.T).square().sum(3).clamp(min=0).sqrt()
        heat = self.down @ distance @ self.across.T
        return ((heat - self.low) / self.range).clamp(min=0)[:, None]


def open_detector(detector: nn.Module, path: str | Path) -> tuple[HeatCore, Preparation, ModelInfo]:
    """Return network, preparation and description of a fitted detector."""
    size_hw = tuple(detector.settings.size_hw)
    preparation = Preparation(size_hw, False, (0.0,) * 3, (1.0,) * 3, activation='odds')
    facts = (detector.settings.facts or {}).items()
    facts = {key: value for key, value in facts if isinstance(value, (str, int, float, bool))}
    extra = dict(preparation=preparation.to_dict(), thresholds_from='held-out normal images', facts=facts)
    info = ModelInfo(CLASSES, PALETTE, (0.5,), size_hw, 'anomaly', Path(path).stem, extra)
    return HeatCore(detector).eval(), preparation, info


def _spread(cells: int, size: int, patch: int) -> Tensor:
    """Return the ``(size, cells)`` matrix of an upsampling of ``(B, rows, columns)`` along one side."""
    units = torch.eye(cells)[:, :, None]  # one cell in a column of the height of the map, one column wide
    return upsample_cells(units, (size, 1), patch)[:, :, 0].T.contiguous()
