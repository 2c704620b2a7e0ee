"""Cover noise-shaped parts of the object by another texture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import torch

from mmdefect.datasets.transforms.synthesize import DefectTransform, codes_of
from mmdefect.registry import TRANSFORMS
from mmdefect.synthesis.canvas import ArrayCanvas
from mmdefect.synthesis.location import FIRST_CODE
from mmdefect.synthesis.perlin import PerlinRanges, ShuffledTiles, TextureFolder, perlin_anomaly
from mmdefect.synthesis.shapes import VISIBLE_TOLERANCE
from mmdefect.synthesis.types import Instance


@TRANSFORMS.register_module()
class PerlinAnomaly(DefectTransform):
    """Perlin noise anomalies on the object, see :mod:`mmdefect.synthesis.perlin`; keys as its base class.

    Args:
        class_id: class of the changed pixels.
        textures: folder of images to take textures from; the image itself, in shuffled tiles, when absent.
        ranges: settings of :class:`~mmdefect.synthesis.perlin.PerlinRanges`.
        tolerance: a pixel that changed by no more than this, of [0, 1], in every channel is not labelled.
        stream: separates several of these in one pipeline.
    """

    def __init__(
        self,
        class_id: int = 1,
        textures: str | None = None,
        ranges: Mapping[str, Any] | None = None,
        tolerance: float = VISIBLE_TOLERANCE,
        stream: int = 0,
    ) -> None:
        super().__init__(stream)
        self.class_id, self.ranges, self.tolerance = class_id, PerlinRanges(**(ranges or {})), tolerance
        self.source = ShuffledTiles() if textures is None else TextureFolder(textures)

    def write(self, canvas: ArrayCanvas, results: dict, generator: torch.Generator) -> tuple[list, Mapping[str, int]]:
        """Draw and write; what counts as changed is decided on the 8-bit pixels."""
        whole = slice(0, canvas.size_hw[0]), slice(0, canvas.size_hw[1])
        image, label = canvas.read(whole), torch.from_numpy(canvas.label).long()
        made = perlin_anomaly(
            image,
            generator,
            label,
            source=self.source,
            class_id=self.class_id,
            ranges=self.ranges,
            foreground=torch.from_numpy(codes_of(results) >= FIRST_CODE),
            tolerance=self.tolerance,
        )
        if not made.instances:
            return [], made.skipped
        pixels = canvas.rounded(made.image)
        changed = (pixels - image).abs().amax(0)
        visible = (changed > self.tolerance) & (label != 255)
        if not visible.any():
            return [], Counter(invisible=1)
        canvas.write(whole, pixels, changed > 0)
        canvas.write_label(whole, self.class_id, visible)
        rows, columns = torch.nonzero(visible.any(1))[:, 0], torch.nonzero(visible.any(0))[:, 0]
        box = int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1
        record = made.instances[0]
        return [
            Instance(
                self.class_id, box, int(visible.sum()), record.source, record.generator, record.blend, record.parameters
            )
        ], made.skipped

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}(class_id={self.class_id}, ranges={self.ranges})'
