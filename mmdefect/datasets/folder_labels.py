"""Say what the masks of a user's folder mean: their encoding, their classes, and the label source of each image.

Plain functions. :func:`describe_folder` decides, from a ``dataset.json`` if the folder holds one and from the mask
files otherwise; :func:`label_samples` applies the decision.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mmdefect.datasets.folder_scan import FolderScan
from mmdefect.datasets.mask_detection import detect_encoding
from mmdefect.datasets.masks import ENCODINGS
from mmdefect.datasets.samples import GOOD, UNKNOWN, Sample

FORMAT = 'mmdefect-dataset/1'
DESCRIPTION_FILE = 'dataset.json'
NORMAL = 'normal'
#: Key of a description in the notes of a split file.
NOTE = 'folder'


@dataclass(frozen=True)
class FolderDescription:
    """How to read the masks of one folder.

    Attributes:
        classes: class names in order, the normal class first.
        mask_encoding: ``'index'``, ``'binary'`` or ``'palette'``.
        mask_palette: RGB per class of ``'palette'`` masks.
        class_of_type: class id of each defect type of ``'binary'`` masks; without types every mask is class 1.
        types_from: where defect types are written, see :func:`~mmdefect.datasets.folder_scan.scan_folder`.
        unmasked: what an image without a mask is, see there.
        reason: how the encoding was decided.
    """

    classes: tuple[str, ...]
    mask_encoding: str
    mask_palette: tuple[tuple[int, int, int], ...] | None = None
    class_of_type: dict[str, int] | None = None
    types_from: str = 'auto'
    unmasked: str = 'skip'
    reason: str = ''

    def to_dict(self) -> dict:
        """Return what ``dataset.json`` and the notes of a split file hold."""
        return {'format': FORMAT, **asdict(self)}


def description_from_dict(body: dict, file: str) -> FolderDescription:
    """Read a description back; keys that other tools added are left alone.

    Raises:
        ValueError: if it is none, naming ``file``.
    """
    try:
        if body['format'] != FORMAT:
            raise ValueError(f'its format is {body["format"]!r}')
        palette = body.get('mask_palette')
        description = FolderDescription(
            tuple(str(c) for c in body['classes']),
            body['mask_encoding'],
            None if palette is None else tuple(tuple(int(v) for v in colour) for colour in palette),
            body.get('class_of_type'),
            body.get('types_from', 'auto'),
            body.get('unmasked', 'skip'),
            body.get('reason', ''),
        )
        if description.mask_encoding not in ENCODINGS:
            raise ValueError(f'mask_encoding is {description.mask_encoding!r}')
        if len(set(description.classes)) != len(description.classes) or len(description.classes) < 2:
            raise ValueError(f'classes are {list(description.classes)}')
        if description.mask_encoding == 'palette' and len(palette or ()) != len(description.classes):
            raise ValueError(f'mask_palette has {len(palette or ())} colours')
    except (KeyError, TypeError, ValueError) as err:
        raise ValueError(
            f'{file} must hold the format {FORMAT!r}, two or more distinct classes, one of the mask '
            f'encodings {ENCODINGS} and a colour per class for the last one, but it does not ({err}); '
            'correct or remove it.'
        ) from err
    return description


def read_description(root: str | os.PathLike) -> FolderDescription | None:
    """Return the description that the folder itself holds, or ``None``.

    Raises:
        ValueError: if there is a ``dataset.json`` that is none.
    """
    path = Path(root) / DESCRIPTION_FILE
    if not path.is_file():
        return None
    try:
        body = json.loads(path.read_text(encoding='utf-8'))
    except (json.JSONDecodeError, UnicodeDecodeError) as err:
        raise ValueError(f'{path} must be JSON, but reading it fails ({err}); correct or remove it.') from err
    return description_from_dict(body if isinstance(body, dict) else {}, str(path))


def describe_folder(
    scan: FolderScan,
    encoding: str | None = None,
    class_names: Sequence[str] | None = None,
    track: Callable[[Iterable], Iterable] = iter,
) -> FolderDescription:
    """Decide how the masks of a scanned folder are to be read.

    ``dataset.json`` in the folder decides when neither ``encoding`` nor ``class_names`` is given.

    Args:
        scan: what :func:`~mmdefect.datasets.folder_scan.scan_folder` returned.
        encoding: overrides the detection: ``'index'``, ``'binary'`` or ``'palette'``.
        class_names: names of the defect classes, without the normal one, in the order of their ids, of their colours by
            red, green and blue, or of their types by name. One name for ``'binary'`` masks makes all types one class.
        track: wraps the loop over the mask files, for a progress bar.

    Raises:
        ValueError: if the masks contradict each other or hold no defect, or the number of names is wrong.
    """
    if encoding is not None and encoding not in ENCODINGS:
        raise ValueError(f'`encoding` must be one of {ENCODINGS}, got {encoding!r}.')
    described = read_description(scan.root)
    if described is not None and encoding is None and class_names is None:
        return replace(described, types_from=scan.types_from, unmasked=scan.treat_unmasked)
    found = detect_encoding([Path(scan.root, m) for pair in scan.pairs for m in pair.masks], encoding, track)
    count, default, class_of_type = found.defect_classes, None, None
    if found.encoding == 'binary':
        default = list(scan.types) or ['defect']
        one_name = class_names is not None and len(class_names) == 1
        count = 1 if one_name else len(default)
        class_of_type = {t: 1 if one_name else i + 1 for i, t in enumerate(scan.types)} or None
    names = list(class_names or default or (f'class_{i + 1}' for i in range(count)))
    enough = len(names) >= count if found.encoding == 'index' else len(names) == count  # a rare class may not occur yet
    if not enough or len({NORMAL, *names}) != len(names) + 1:
        raise ValueError(
            f'`class_names` must be {count} distinct names besides {NORMAL!r}, one per class of the masks '
            f'({found.reason}{"; types: " + ", ".join(scan.types) if default else ""}), got {names}.'
        )
    return FolderDescription(
        (NORMAL, *names),
        found.encoding,
        found.palette,
        class_of_type,
        scan.types_from,
        scan.treat_unmasked,
        found.reason,
    )


def label_samples(scan: FolderScan, description: FolderDescription) -> list[Sample]:
    """Give every image of a scan its label source; paths are joined with the root.

    Raises:
        ValueError: if an image has several masks, which one entry of a data set cannot hold.
    """
    samples = []
    for pair in scan.pairs:
        if len(pair.masks) > 1:
            raise ValueError(
                f'an image must have one mask file, but {pair.image} has {" and ".join(pair.masks)}; '
                'merge them with `python tools/convert_dataset.py folder SOURCE TARGET` and use TARGET.'
            )
        samples.append(
            make_sample(
                scan.root,
                pair.image,
                pair.masks[0] if pair.masks else None,
                pair.types[0] if pair.types else None,
                pair.split,
                description,
            )
        )
    return samples


def make_sample(
    root: str, image: str, mask: str | None, defect_type: str | None, split: str | None, description: FolderDescription
) -> Sample:
    """Return one entry of a data set; ``image`` and ``mask`` are relative to ``root``."""
    if mask is None:
        return Sample(os.path.join(root, image), None, GOOD, own_split=split)
    palette = None if description.mask_palette is None else [list(c) for c in description.mask_palette]
    return Sample(
        os.path.join(root, image),
        os.path.join(root, mask),
        defect_type or UNKNOWN,
        description.mask_encoding,
        class_id_of(defect_type, description, mask),
        palette,
        own_split=split,
    )


def class_id_of(defect_type: str | None, description: FolderDescription, mask: str) -> int | None:
    """Return the class of the marked pixels of a ``'binary'`` mask, ``None`` for the other encodings.

    Raises:
        ValueError: if its type is none of the described ones.
    """
    if description.mask_encoding != 'binary':
        return None
    if not description.class_of_type:
        return 1
    if defect_type not in description.class_of_type:
        raise ValueError(
            f'the defect type of {mask} must be one of {sorted(description.class_of_type)}, got '
            f'{defect_type!r}; correct the folder or file name, or make the project again.'
        )
    return description.class_of_type[defect_type]
