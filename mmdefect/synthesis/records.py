"""Instances as JSON records and back: what travels with a sample, is drawn on sheets, and is saved."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmdefect.synthesis.types import Instance


def record_of(instance: Instance) -> dict[str, Any]:
    """Return the JSON record of an instance; ``box_xyxy`` and ``class_index`` are what tools draw."""
    top, left, bottom, right = instance.box
    return dict(
        box_xyxy=[left, top, right, bottom],
        class_index=instance.class_id,
        area=instance.area,
        source=instance.source,
        generator=instance.generator,
        blend=instance.blend,
        parameters=dict(instance.parameters),
    )


def instance_of(record: Mapping[str, Any]) -> Instance:
    """Return the instance of a JSON record."""
    left, top, right, bottom = record['box_xyxy']
    return Instance(
        record['class_index'],
        (top, left, bottom, right),
        record['area'],
        record['source'],
        record['generator'],
        record['blend'],
        dict(record['parameters']),
    )
