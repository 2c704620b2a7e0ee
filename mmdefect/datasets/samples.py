"""One image of a data set and where its label comes from; what every layout scan returns."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

#: Defect type of an image without defects.
GOOD = 'good'
#: Defect type when the layout does not say it and nobody has looked into the mask yet.
UNKNOWN = 'unknown'


@dataclass(frozen=True)
class Sample:
    """One image and its label.

    Attributes:
        img_path: path of the image file.
        seg_map_path: path of the mask file, or ``None`` for a clean image whose label is all zero.
        defect_type: name of the folder or group the image comes from: ``'good'``, a type, or ``'unknown'``.
        mask_encoding: ``'index'`` (class indices), ``'binary'`` (non-zero pixels are ``class_id``) or ``'palette'``.
        class_id: class of the non-zero pixels of a ``'binary'`` mask.
        palette: RGB per class of a ``'palette'`` mask.
        own_split: split the layout itself puts the image in, or ``None`` when it has no splits.
        extra: further keys for the pipeline, for example ``object_mask_path``.
    """

    img_path: str
    seg_map_path: str | None
    defect_type: str = UNKNOWN
    mask_encoding: str = 'index'
    class_id: int | None = None
    palette: list[list[int]] | None = None
    own_split: str | None = None
    extra: dict = field(default_factory=dict)

    @property
    def is_clean(self) -> bool:
        """Whether the image is known to have no defect."""
        return self.defect_type == GOOD


def relative_path(path: str, root: str) -> str:
    """Return ``path`` relative to ``root`` with forward slashes: the name of an image inside split files."""
    return os.path.relpath(path, root).replace(os.sep, '/')
