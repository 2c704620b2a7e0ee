"""Paste real defects of the training split."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mmdefect.datasets.donors import library_of
from mmdefect.datasets.transforms.synthesize import DefectTransform, background_of
from mmdefect.registry import TRANSFORMS
from mmdefect.synthesis.canvas import ArrayCanvas
from mmdefect.synthesis.donors import DefectLibrary
from mmdefect.synthesis.engine import PasteEngine
from mmdefect.synthesis.policy import PolicySpec


@TRANSFORMS.register_module()
class PasteDefects(DefectTransform):
    """Paste defects of a library, see :class:`~mmdefect.synthesis.engine.PasteEngine`; keys as its base class.

    The library is opened, or built, when the transform is made, before any worker starts.

    Args:
        donors: a library; its folder; or arguments of :func:`~mmdefect.datasets.donors.library_of`. The synthesis step
            of a config fills in the training data set, and validation and test set as ``held_out``.
        policy: settings of :class:`~mmdefect.synthesis.policy.PolicySpec`.
        stream: separates several of these in one pipeline.
        backend: how a worker computes, 'numpy' or 'torch', see the engine; the batch on a device takes 'torch'.
    """

    def __init__(
        self,
        donors: DefectLibrary | str | Mapping[str, Any],
        policy: Mapping[str, Any] | None = None,
        stream: int = 0,
        backend: str = 'numpy',
    ) -> None:
        super().__init__(stream)
        if isinstance(donors, Mapping):
            if 'dataset' not in donors:
                raise ValueError(
                    '`donors` must name the training `dataset` to cut defects from, got keys '
                    f'{sorted(donors)}; a config with a top-level `synthesis` fills it in.'
                )
            donors = library_of(**donors)
        library = donors if isinstance(donors, DefectLibrary) else DefectLibrary(donors)
        self.engine = PasteEngine(library, PolicySpec.from_dict(policy or {}))
        self.backend = backend

    def write(self, canvas: ArrayCanvas, results: dict, generator: torch.Generator) -> tuple[list, Mapping[str, int]]:
        """Draw and write."""
        return self.engine.apply(
            canvas, self.engine.draw(background_of(results), generator, self.backend), self.backend
        )

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}(donors={str(self.engine.library.folder)!r}, policy={self.engine.policy})'
