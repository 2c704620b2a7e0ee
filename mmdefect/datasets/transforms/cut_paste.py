"""Cut a part of the image out and paste it elsewhere on the object."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from mmdefect.datasets.transforms.synthesize import DefectTransform, codes_of
from mmdefect.registry import TRANSFORMS
from mmdefect.synthesis.array_writing import changed_pixels
from mmdefect.synthesis.canvas import ArrayCanvas
from mmdefect.synthesis.cutpaste import KINDS, CutPasteParameters, CutPasteRanges, render_array, sample_cutpaste
from mmdefect.synthesis.location import FIRST_CODE
from mmdefect.synthesis.shapes import VISIBLE_TOLERANCE
from mmdefect.synthesis.types import IGNORE_LABEL, Instance


@TRANSFORMS.register_module()
class CutPaste(DefectTransform):
    """CutPaste on the object, see :mod:`mmdefect.synthesis.cutpaste`; keys as its base class.

    Args:
        kind: ``'normal'``, ``'scar'`` or ``'union'``.
        class_id: class of the pasted pixels.
        ranges: settings of :class:`~mmdefect.synthesis.cutpaste.CutPasteRanges`.
        min_overlap: fraction of the target, and of the source, that must lie on the object.
        tolerance: a pixel that changed by no more than this, of [0, 1], in every channel is not labelled.
        tries: places that are tried before the defect is skipped and counted.
        stream: separates several of these in one pipeline.
    """

    def __init__(
        self,
        kind: str = 'union',
        class_id: int = 1,
        ranges: Mapping[str, Any] | None = None,
        min_overlap: float = 0.95,
        tolerance: float = VISIBLE_TOLERANCE,
        tries: int = 20,
        stream: int = 0,
    ) -> None:
        super().__init__(stream)
        if kind not in KINDS:
            raise ValueError(f'`kind` must be one of {", ".join(KINDS)}, got {kind!r}.')
        self.kind, self.class_id, self.ranges = kind, class_id, CutPasteRanges(**(ranges or {}))
        self.min_overlap, self.tolerance, self.tries = min_overlap, tolerance, tries

    def write(self, canvas: ArrayCanvas, results: dict, generator: torch.Generator) -> tuple[list, Mapping[str, int]]:
        """Draw until source and target lie on the object, then write."""
        allowed, reason = codes_of(results) >= FIRST_CODE, 'off the object'
        for _ in range(self.tries):
            paste = sample_cutpaste(canvas.size_hw, generator, self.kind, self.ranges)
            if not self._on_object(paste, allowed):
                continue
            instance = self._write(canvas, paste, allowed)
            if instance is not None:
                return [instance], {}
            reason = 'invisible'
        return [], Counter({reason: 1})

    def _on_object(self, paste: CutPasteParameters, allowed: np.ndarray) -> bool:
        return min(allowed[paste.source].mean(), allowed[paste.target].mean()) >= self.min_overlap

    def _write(self, canvas: ArrayCanvas, paste: CutPasteParameters, allowed: np.ndarray) -> Instance | None:
        part, alpha = render_array(canvas.image, paste)
        crop = paste.target
        target, label, pasted = canvas.image[crop], canvas.label[crop], allowed[crop]
        visible = changed_pixels(part, target, self.tolerance) & pasted & (label != IGNORE_LABEL)
        if not visible.any():
            return None
        np.copyto(target, part, where=(pasted & (alpha > 0))[..., None])
        label[visible] = self.class_id
        return paste.record(visible, self.class_id)

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}(kind={self.kind!r}, class_id={self.class_id}, ranges={self.ranges})'
