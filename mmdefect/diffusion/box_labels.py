"""Pack a sampled set with its masks as labels: weak ones, for ``WeakBoxLoss``.

``sample`` generates somewhere inside a mask, and nobody has said where. So the mask is the label and is marked as a
box: training counts a pixel inside only when the network already sees a defect there. Sets relabelled by what changed
have better labels; these cost nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mmdefect.diffusion.images import read_mask, write_image
from mmdefect.diffusion.manifest import Manifest, Record
from mmdefect.diffusion.pack import BOXES, PackedSet, write_packed
from mmdefect.diffusion.relabel_pairs import find_pairs


def pack_boxes(
    generated: Path, classes: Sequence[str], out: Path, progress, class_ids: Mapping[str, int] | None = None
) -> PackedSet:
    """Pack every image of a sampled set with its mask as label.

    Args:
        generated: set that ``sample`` wrote.
        classes: names, the normal class first.
        out: folder of the packed set; must not exist.
        progress: shows how far it is: ``progress(items, text, total)``.
        class_ids: class of each defect type; of others what the manifest says, or the class of that name.

    Raises:
        ValueError: if an image has no mask or its type no class, or ``out`` exists.
    """
    records = {record.id: record for record in Manifest(generated).records()}
    pairs = find_pairs(generated)
    ids = {pair.name: _class_of(records[pair.name], generated, classes, class_ids or {}) for pair in pairs}
    with tempfile.TemporaryDirectory(dir=out.parent if out.parent.is_dir() else None) as folder:
        items = []
        for pair in pairs:
            label = Path(folder) / f'{pair.name}.png'
            write_image(label, read_mask(pair.mask).astype(np.uint8) * np.uint8(ids[pair.name]))
            items.append(
                (
                    type(pair)(pair.name, pair.edit, pair.source, label, pair.mask, None, pair.origin),
                    dict(decided_by='nobody', mask=str(pair.mask)),
                )
            )
        return write_packed(items, tuple(classes), BOXES, out, progress)


def _class_of(record: Record, generated: Path, classes: Sequence[str], class_ids: Mapping[str, int]) -> int:
    if record.mask is None:
        raise ValueError(
            f'every image of {generated} must have a mask to take as label, but {record.id} has none: '
            'it was edited, not sampled; use relabel and pack.'
        )
    name = record.defect_type
    found = class_ids.get(
        name, record.class_id if record.class_id is not None else classes.index(name) if name in classes else None
    )
    if found is None or not 0 < found < len(classes):
        raise ValueError(
            f'each defect type must have a class in 1..{len(classes) - 1} of {list(classes)}, got {found} '
            f'for {name!r}; name it with --class-ids {name}=1.'
        )
    return found
