"""MVTec AD as downloaded, and VisA in its one-class layout.

MVTec AD: ``<category>/train/good``, ``<category>/test/<type>``, ``<category>/ground_truth/<type>/<stem>_mask.png``;
masks are 0/255, licence CC BY-NC-SA 4.0. VisA, one-class layout: the same folders, JPEG images, masks ``<stem>.png``
with 0/1 or 0/255. MVTec LOCO and MVTec AD 2 have other folders and are not read.
"""

import os
from collections.abc import Sequence

from mmdefect.datasets.base import DefectDataset, defect_palette
from mmdefect.datasets.samples import GOOD, Sample, index_by_stem, list_images
from mmdefect.registry import DATASETS


def find_categories(root: str) -> dict[str, str]:
    """Return the categories below ``root`` by name; a root that is a category itself gives that one."""
    if _is_category(root):
        return {os.path.basename(os.path.abspath(root)): root}
    return {name: path for name in sorted(os.listdir(root)) if _is_category(path := os.path.join(root, name))}


def scan_mvtec(
    root: str, categories: Sequence[str] | None = None, class_ids: dict[str, int] | None = None
) -> list[Sample]:
    """List the images of some categories with their masks.

    Args:
        root: folder of the categories, or one category folder.
        categories: names of the categories; ``None`` takes every one found.
        class_ids: class of every defect type; ``None`` makes every type class 1.

    Returns:
        Clean images without a mask, defect images with a ``'binary'`` one; ``own_split`` is ``'train'`` or ``'test'``.
    """
    found = find_categories(root)
    names = list(found) if categories is None else list(categories)
    unknown = [n for n in names if n not in found]
    if unknown:
        raise ValueError(
            f'`category` must name folders of {root} that hold train/good and test, but {unknown[0]!r} is '
            f'not one; found: {", ".join(found) or "none"}.'
        )
    return [sample for name in names for sample in _scan_category(found[name], name, class_ids)]


@DATASETS.register_module()
class MVTecDataset(DefectDataset):
    """MVTec AD exactly as downloaded, or VisA in its one-class layout.

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
        metainfo: may replace the palette; ``classes`` in it counts as the list above.
        **kwargs: see :class:`~mmdefect.datasets.base.DefectDataset`.
    """

    def __init__(
        self,
        data_root: str,
        category: str | Sequence[str] | None = None,
        classes: str | Sequence[str] = 'binary',
        metainfo: dict | None = None,
        **kwargs,
    ) -> None:
        if not os.path.isdir(data_root):
            raise ValueError(f'`data_root` must be a folder, but {data_root} does not exist; correct the path.')
        self.categories = [category] if isinstance(category, str) else category
        metainfo = dict(metainfo or {})
        types = sorted({s.defect_type for s in scan_mvtec(data_root, self.categories)} - {GOOD})
        names = _class_names(metainfo.get('classes', classes), types)
        self.class_ids = {t: names.index(t) if t in names else 1 for t in types}
        metainfo['classes'] = tuple(names)
        metainfo.setdefault('palette', defect_palette(len(names)))
        super().__init__(data_root=data_root, metainfo=metainfo, **kwargs)

    def scan(self) -> list[Sample]:
        """List every image of the categories."""
        return scan_mvtec(self.data_root, self.categories, self.class_ids)

    def split_notes(self) -> dict:
        """Record the categories."""
        names = find_categories(self.data_root) if self.categories is None else self.categories
        return {'category': list(names)}


def _is_category(path: str) -> bool:
    return os.path.isdir(os.path.join(path, 'train', GOOD)) or os.path.isdir(os.path.join(path, 'test', GOOD))


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
