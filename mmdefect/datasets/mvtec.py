"""MVTec AD and VisA as downloaded, and VisA in its one-class layout.

MVTec AD: ``<category>/train/good``, ``<category>/test/<type>``, ``<category>/ground_truth/<type>/<stem>_mask.png``;
masks are 0/255, licence CC BY-NC-SA 4.0. VisA, one-class layout: the same folders, JPEG images, masks ``<stem>.png``
with 0/1 or 0/255. VisA as downloaded (licence CC BY 4.0): ``<object>/Data/Images/{Anomaly,Normal}`` and
``<object>/Data/Masks/Anomaly/<stem>.png``; who trains and who tests stands in a division file, ``split_csv/1cls.csv``,
``2cls_fewshot.csv`` or ``2cls_highshot.csv`` with the columns object, split, label, image, mask. MVTec LOCO and MVTec
AD 2 have other folders and are not read.
"""

import csv
import os
from collections.abc import Sequence
from pathlib import Path

from mmdefect.datasets.base import DefectDataset, defect_palette
from mmdefect.datasets.samples import GOOD, Sample, index_by_stem, list_images
from mmdefect.registry import DATASETS

#: Types and image folders of VisA as downloaded.
VISA_FOLDERS = {GOOD: 'Normal', 'anomaly': 'Anomaly'}
#: The division of VisA that trains on good images alone; it is the layout's own where its file is there.
ONE_CLASS = '1cls'


def find_categories(root: str) -> dict[str, str]:
    """Return the categories below ``root`` by name; a root that is a category itself gives that one."""
    if _is_category(root):
        return {os.path.basename(os.path.abspath(root)): root}
    return {name: path for name in sorted(os.listdir(root)) if _is_category(path := os.path.join(root, name))}


def scan_mvtec(
    root: str,
    categories: Sequence[str] | None = None,
    class_ids: dict[str, int] | None = None,
    division: str | None = None,
) -> list[Sample]:
    """List the images of some categories with their masks.

    Args:
        root: folder of the categories, or one category folder.
        categories: names of the categories; ``None`` takes every one found.
        class_ids: class of every defect type; ``None`` makes every type class 1.
        division: of VisA as downloaded, see :func:`read_division`.

    Returns:
        Clean images without a mask, defect images with a ``'binary'`` one; ``own_split`` is ``'train'`` or ``'test'``,
        ``None`` for what no division names.
    """
    found = find_categories(root)
    names = list(found) if categories is None else list(categories)
    unknown = [n for n in names if n not in found]
    if unknown:
        raise ValueError(
            f'`category` must name folders of {root} that hold train/good and test, but {unknown[0]!r} is '
            f'not one; found: {", ".join(found) or "none"}.'
        )
    visa = [name for name in names if _is_visa(found[name])]
    if division is not None and len(visa) < len(names):
        raise ValueError(
            f'`division` must be for VisA as downloaded, but {found[next(n for n in names if n not in visa)]} has '
            'train/ and test/ folders of its own; leave it out.'
        )
    sides = read_division(os.path.dirname(os.path.abspath(found[visa[0]])), division, visa) if visa else {}
    return [
        sample
        for name in names
        for sample in (
            _scan_visa(found[name], name, class_ids, sides)
            if name in visa
            else _scan_category(found[name], name, class_ids)
        )
    ]


def read_division(root: str, division: str | None, objects: Sequence[str]) -> dict[str, str]:
    """Return ``'train'`` or ``'test'`` of the images of VisA, by their path below ``root``, the folder of the objects.

    Args:
        root: holds the objects.
        division: a CSV file, or its name without suffix in ``root`` or ``split_csv/`` below it; ``None`` takes
            :data:`ONE_CLASS` if its file is there, and divides nothing if it is not.
        objects: whose images must all be there.
    """
    files = sorted([*Path(root).glob('*.csv'), *Path(root).glob('split_csv/*.csv')])
    named = {file.stem: str(file) for file in files}
    if division is None and ONE_CLASS not in named:
        return {}
    path = division if division is not None and os.path.isfile(division) else named.get(division or ONE_CLASS)
    if path is None:
        raise ValueError(
            f'`division` must be a CSV file of VisA or the name of one in {root}, but {division!r} is neither; found: '
            f'{", ".join(named) or "none"}.'
        )
    with open(path, newline='', encoding='utf-8') as file:
        rows = list(csv.DictReader(file))
    wrong = [row for row in rows if None in row.values() or row.get('split') not in ('train', 'test')]
    if not rows or wrong or not {'object', 'image'} <= rows[0].keys():
        raise ValueError(
            f'{path} must have the columns object, split (train or test), label, image and mask, but '
            f'{f"line {rows.index(wrong[0]) + 2} is {wrong[0]}" if wrong else "it does not"}; take the file of VisA.'
        )
    sides = {row['image']: row['split'] for row in rows if row['object'] in objects}
    missing = [image for image in sides if not os.path.isfile(os.path.join(root, image))]
    unnamed = [name for name in objects if name not in {row['object'] for row in rows}]
    if missing or unnamed:
        what = f'names {missing[0]}, which is not in {root}' if missing else f'does not name {unnamed[0]}'
        raise ValueError(f'{path} must divide the images that are there, but it {what}; restore them, or correct it.')
    return sides


@DATASETS.register_module()
class MVTecDataset(DefectDataset):
    """MVTec AD or VisA exactly as downloaded, or VisA in its one-class layout.

    The layout's own folders are ``split='train'`` (only clean images) and ``split='test'``. Supervised training needs
    defects in the training set, so write a split file with ``tools/split_dataset.py``. With neither, the data set holds
    every image.

    Args:
        data_root: folder of the categories, or one category folder.
        category: one name, several, or ``None`` for all found.
        classes: ``'binary'``: normal and defect. ``'types'``: normal and one class per defect type, the union over the
            categories in alphabetical order; types of the same name are one class. A list, normal first: exactly these
            classes; every type found must be among them, unless there are just two classes and the second is no type:
            then every defect is of that class.
        division: of VisA as downloaded: ``'2cls_fewshot'``, ``'2cls_highshot'`` or a CSV file; ``None`` is ``'1cls'``
            where that file is there.
        metainfo: may replace the palette; ``classes`` in it counts as the list above.
        **kwargs: see :class:`~mmdefect.datasets.base.DefectDataset`.
    """

    def __init__(
        self,
        data_root: str,
        category: str | Sequence[str] | None = None,
        classes: str | Sequence[str] = 'binary',
        division: str | None = None,
        metainfo: dict | None = None,
        **kwargs,
    ) -> None:
        if not os.path.isdir(data_root):
            raise ValueError(f'`data_root` must be a folder, but {data_root} does not exist; correct the path.')
        self.categories = [category] if isinstance(category, str) else category
        self.division, metainfo = division, dict(metainfo or {})
        types = sorted({s.defect_type for s in scan_mvtec(data_root, self.categories, division=division)} - {GOOD})
        names = _class_names(metainfo.get('classes', classes), types)
        self.class_ids = {t: names.index(t) if t in names else 1 for t in types}
        metainfo['classes'] = tuple(names)
        metainfo.setdefault('palette', defect_palette(len(names)))
        super().__init__(data_root=data_root, metainfo=metainfo, **kwargs)

    def scan(self) -> list[Sample]:
        """List every image of the categories."""
        return scan_mvtec(self.data_root, self.categories, self.class_ids, self.division)

    def split_notes(self) -> dict:
        """Record the categories, and the division of VisA that was asked for."""
        names = find_categories(self.data_root) if self.categories is None else self.categories
        return {'category': list(names), **({'division': self.division} if self.division else {})}


def _is_category(path: str) -> bool:
    return any(os.path.isdir(os.path.join(path, split, GOOD)) for split in ('train', 'test')) or _is_visa(path)


def _is_visa(path: str) -> bool:
    return os.path.isdir(os.path.join(path, 'Data', 'Images', VISA_FOLDERS[GOOD]))


def _scan_visa(folder: str, name: str, class_ids: dict[str, int] | None, sides: dict[str, str]) -> list[Sample]:
    """List an object of VisA; ``sides`` are those of :func:`read_division`."""
    samples = []
    for defect_type, images in VISA_FOLDERS.items():
        place = os.path.join('Data', 'Images', images)
        paths = list_images(os.path.join(folder, place)) if os.path.isdir(os.path.join(folder, place)) else []
        masks: Sequence[str | None] = [None] * len(paths)
        if defect_type != GOOD:
            masks = find_masks(paths, os.path.join(folder, 'Data', 'Masks', images), 'move a clean image to Normal/')
            label = dict(mask_encoding='binary', class_id=1 if class_ids is None else class_ids[defect_type])
        else:
            label = {}
        for path, mask in zip(paths, masks, strict=True):
            side = sides.get(f'{name}/Data/Images/{images}/{os.path.basename(path)}')
            samples.append(Sample(path, mask, defect_type, own_split=side, category=name, **label))
    return samples


def _scan_category(folder: str, name: str, class_ids: dict[str, int] | None) -> list[Sample]:
    samples = []
    for split in ('train', 'test'):
        for defect_type in _subfolders(os.path.join(folder, split)):
            images = list_images(os.path.join(folder, split, defect_type))
            if defect_type == GOOD:
                samples += [Sample(i, None, GOOD, own_split=split, category=name) for i in images]
                continue
            if split == 'train':
                raise ValueError(
                    f'{os.path.join(folder, split)} must hold only {GOOD}/, but it holds {defect_type}/; '
                    'move defect images to test/, or read the folder with FolderDefectDataset.'
                )
            class_id = 1 if class_ids is None else class_ids[defect_type]
            masks = os.path.join(folder, 'ground_truth', defect_type)
            samples += [
                Sample(i, m, defect_type, 'binary', class_id, own_split=split, category=name)
                for i, m in zip(images, find_masks(images, masks, 'move a clean image to good/'), strict=True)
            ]
    return samples


def find_masks(images: list[str], folder: str, what: str) -> list[str]:
    """Return the mask of every image in ``folder``, ``<stem>_mask`` or ``<stem>``; ``what`` to do if one is missing."""
    masks = index_by_stem(list_images(folder), suffixes=('_mask',)) if images else {}
    for stem, image in index_by_stem(images).items():
        if stem not in masks:
            missing = f'{os.path.join(folder, stem)}_mask.png'
            raise ValueError(f'{image} must have a mask {missing}, but there is none; restore the mask, or {what}.')
    return [masks[stem] for stem in index_by_stem(images)]


def _subfolders(folder: str) -> list[str]:
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return sorted(n for n in names if not n.startswith('.') and os.path.isdir(os.path.join(folder, n)))


def _class_names(classes: str | Sequence[str], types: list[str]) -> list[str]:
    """Return the class names, normal first; raise if the setting is unknown or a defect type has no class."""
    if classes == 'binary':
        return ['normal', 'defect']
    if classes == 'types':
        return ['normal', *types]
    if isinstance(classes, str):
        raise ValueError(
            f"`classes` must be 'binary', 'types' or a list with 'normal' first, got {classes!r}; the defect types "
            f'found are {types}.'
        )
    names = list(classes)
    if not names or names[0] != 'normal' or len(set(names)) != len(names):
        raise ValueError(
            f"`classes` must start with 'normal' and name each class once, got {names}; the defect types found are "
            f'{types}.'
        )
    missing = [t for t in types if t not in names]
    if missing and (len(names) != 2 or names[1] in types):
        raise ValueError(
            f'`classes` must name every defect type found, but {missing} are missing from {names}; add '
            "them, take classes='types', or leave their category out."
        )
    return names
