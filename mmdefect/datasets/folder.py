"""The user's own folder of images and masks: what its masks mean, and the data set that reads it.

The arrangements are those of :mod:`mmdefect.datasets.folder_scan`. :func:`describe_folder` decides how the masks are to
be read, from a ``dataset.json`` if the folder holds one, else from the mask files; :func:`label_samples` applies it.
"""

import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from mmdefect.datasets.base import DefectDataset
from mmdefect.datasets.folder_scan import FolderScan, scan_folder
from mmdefect.datasets.masks import ENCODINGS, detect_encoding
from mmdefect.datasets.samples import GOOD, UNKNOWN, Sample, relative_path
from mmdefect.datasets.split_file import read_split
from mmdefect.registry import DATASETS

FORMAT = 'mmdefect-dataset/1'
DESCRIPTION_FILE = 'dataset.json'
NORMAL = 'normal'
#: Key of a description in the notes of a split file.
NOTE = 'folder'


@dataclass(frozen=True)
class FolderDescription:
    """How to read the masks of one folder."""

    classes: tuple[str, ...]  # the normal class first
    mask_encoding: str
    mask_palette: tuple[tuple[int, int, int], ...] | None = None  # RGB per class of 'palette' masks
    class_of_type: dict[str, int] | None = None  # for 'binary' masks; without types every mask is class 1
    types_from: str = 'auto'  # as for scan_folder
    unmasked: str = 'skip'  # as for scan_folder
    reason: str = ''  # how the encoding was decided

    def to_dict(self) -> dict:
        """Return what ``dataset.json`` and the notes of a split file hold."""
        return {'format': FORMAT, **asdict(self)}

    def class_id_of(self, defect_type: str | None, mask: str) -> int | None:
        """Return the class of the marked pixels of a ``'binary'`` mask, ``None`` for the other encodings."""
        if self.mask_encoding != 'binary':
            return None
        if not self.class_of_type:
            return 1
        if defect_type not in self.class_of_type:
            raise ValueError(
                f'the defect type of {mask} must be one of {sorted(self.class_of_type)}, got {defect_type!r}; correct '
                'the folder or file name, or make the project again.'
            )
        return self.class_of_type[defect_type]


def description_from_dict(body: dict, file: str) -> FolderDescription:
    """Read a description back; keys that other tools added are left alone. Errors name ``file``."""
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
        classes, encoding = description.classes, description.mask_encoding
        if encoding not in ENCODINGS:
            raise ValueError(f'mask_encoding is {encoding!r}')
        if len(set(classes)) != len(classes) or len(classes) < 2:
            raise ValueError(f'classes are {list(classes)}')
        if encoding == 'palette' and len(palette or ()) != len(classes):
            raise ValueError(f'mask_palette has {len(palette or ())} colours')
    except (KeyError, TypeError, ValueError) as err:
        raise ValueError(
            f'{file} must hold the format {FORMAT!r}, two or more distinct classes, one of the mask encodings '
            f'{ENCODINGS} and a colour per class for the last one, but it does not ({err}); correct or remove it.'
        ) from err
    return description


def read_description(root: str | os.PathLike) -> FolderDescription | None:
    """Return the description that the folder itself holds in ``dataset.json``, or ``None``."""
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
        types = f'; types: {", ".join(scan.types)}' if default else ''
        raise ValueError(
            f'`class_names` must be {count} distinct names besides {NORMAL!r}, one per class of the masks '
            f'({found.reason}{types}), got {names}.'
        )
    classes, origin = (NORMAL, *names), (scan.types_from, scan.treat_unmasked, found.reason)
    return FolderDescription(classes, found.encoding, found.palette, class_of_type, *origin)


def label_samples(scan: FolderScan, description: FolderDescription) -> list[Sample]:
    """Give every image of a scan its label source; paths are joined with the root."""
    encoding = description.mask_encoding
    palette = None if description.mask_palette is None else [list(c) for c in description.mask_palette]
    samples = []
    for pair in scan.pairs:
        image = os.path.join(scan.root, pair.image)
        if not pair.masks:
            samples.append(Sample(image, None, GOOD, own_split=pair.split))
            continue
        if len(pair.masks) > 1:
            raise ValueError(
                f'an image must have one mask file, but {pair.image} has {" and ".join(pair.masks)}; merge them with '
                '`python tools/convert_dataset.py folder SOURCE TARGET` and use TARGET.'
            )
        (mask,), (defect_type,) = pair.masks, pair.types
        class_id, mask = description.class_id_of(defect_type, mask), os.path.join(scan.root, mask)
        samples.append(Sample(image, mask, defect_type or UNKNOWN, encoding, class_id, palette, own_split=pair.split))
    return samples


@DATASETS.register_module()
class FolderDefectDataset(DefectDataset):
    """Images and masks that a user arranged, paired by stem.

    How the masks are to be read comes from, in this order: the arguments; the notes of ``split_file``, written by
    ``tools/init_project.py``; ``dataset.json`` in ``data_root``, written by ``tools/convert_dataset.py``; the mask
    files themselves, all of which are then read once.

    Args:
        data_root: folder to look into.
        mask_encoding: ``'index'``, ``'binary'`` or ``'palette'``; ``None`` as described above.
        types_from: where defect types are written: ``'auto'``, ``'folder'``, ``'prefix'``, ``'none'``; ``None`` as
            above.
        unmasked: an image without a mask outside ``good/`` and the like is left out (``'skip'``) or ``'clean'``;
            ``None`` as above.
        metainfo: ``classes`` must be as many as the masks have; the normal class is the first.
        **kwargs: see :class:`~mmdefect.datasets.base.DefectDataset`.
    """

    def __init__(
        self,
        data_root: str,
        mask_encoding: str | None = None,
        types_from: str | None = None,
        unmasked: str | None = None,
        metainfo: dict | None = None,
        split_file: str | None = None,
        **kwargs,
    ) -> None:
        if not os.path.isdir(data_root):
            raise ValueError(f'`data_root` must be a folder, but {data_root} does not exist; correct the path.')
        self.data_root, self.split_file = data_root, split_file
        self.types: dict[str, str] = {}
        stored = self._stored_description()
        self.folder_scan = scan_folder(
            data_root,
            types_from or (stored.types_from if stored else 'auto'),
            unmasked or (stored.unmasked if stored else 'skip'),
        )
        metainfo = dict(metainfo or {})
        if stored is None or mask_encoding is not None:
            classes = metainfo.get('classes')
            stored = describe_folder(self.folder_scan, mask_encoding, None if classes is None else list(classes)[1:])
        self.description = stored
        classes = metainfo.setdefault('classes', stored.classes)
        if len(classes) != len(stored.classes):
            raise ValueError(
                f'`classes` must name the {len(stored.classes)} classes that the masks of {data_root} have '
                f'({", ".join(stored.classes)}), got {list(classes)}; correct the config.'
            )
        super().__init__(data_root=data_root, metainfo=metainfo, split_file=split_file, **kwargs)

    def scan(self) -> list[Sample]:
        """List every pair of the folder; defect types come from the split file where it has them."""
        return [
            replace(s, defect_type=self.types.get(relative_path(s.img_path, self.data_root), s.defect_type))
            for s in label_samples(self.folder_scan, self.description)
        ]

    def split_notes(self) -> dict:
        """Record how the masks are read, so that a data set with the split file need not find out again."""
        return {NOTE: self.description.to_dict()}

    def _stored_description(self) -> FolderDescription | None:
        if self.split_file is not None:
            file = self.resolve_split_file()
            split = read_split(file)
            self.types = {entry.image: entry.type for entries in split.splits.values() for entry in entries}
            if NOTE in split.notes:
                return description_from_dict(split.notes[NOTE], file)
        return read_description(self.data_root)
