"""Settings of CutPaste training that stand once at the top of a config: ``variant``, ``patch`` and ``category``."""

from __future__ import annotations

from collections.abc import Iterable

from mmengine.config import Config, ConfigDict

from mmdefect.synthesis.cutpaste import class_names


def compose_cutpaste(cfg: Config, datasets: Iterable[ConfigDict]) -> None:
    """Carry ``variant`` and ``patch`` to every ``PackCutPasteViews``, and the number of classes to the head."""
    if cfg.get('variant') is None:
        return
    names = class_names(cfg.variant)
    for dataset in datasets:
        for step in dataset.get('pipeline') or []:
            if step['type'] == 'PackCutPasteViews':
                step['variant'] = cfg.variant
                step['patch'] = cfg.get('patch')
    cfg.model.head['num_classes'] = len(names)
