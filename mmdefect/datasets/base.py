"""The base class of every defect data set: mmseg's ``BaseSegDataset`` with clean images, mask encodings and splits."""

import colorsys
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence

from mmseg.datasets import BaseSegDataset
from mmseg.datasets.transforms import LoadAnnotations

from mmdefect.datasets.samples import Sample, relative_path
from mmdefect.datasets.seeding import NumberedSamples
from mmdefect.datasets.split_file import read_split

#: Colours of the normal class and the first defect classes; further ones are spread over the colour circle.
_PALETTE_TEXT = '000000 ff0000 00ff00 0080ff ffff00 ff00ff 00ffff ff8000 8000ff'
PALETTE = [list(bytes.fromhex(colour)) for colour in _PALETTE_TEXT.split()]


def defect_palette(num_classes: int) -> list[list[int]]:
    """Return one RGB colour per class, black for the normal class; colours do not depend on how many follow."""
    colours = [list(c) for c in PALETTE[:num_classes]]
    for index in range(len(colours), num_classes):
        # The golden ratio spreads hues evenly however many classes there are.
        hue = (index * 0.6180339887) % 1
        colours.append([round(255 * c) for c in colorsys.hsv_to_rgb(hue, 0.65, 0.95)])
    return colours


class DefectDataset(NumberedSamples, BaseSegDataset, ABC):
    """Base of the defect data sets; a subclass scans one folder layout.

    A subclass implements :meth:`scan`. Which of the scanned images the data set holds is decided by, in this order:
    ``split_file`` with ``split``; ``split`` alone, which means the layout's own folders; neither, which means every
    image of the layout.

    Every entry carries ``img_path``, ``seg_map_path`` (``None``: clean image, all-zero label without a file),
    ``mask_encoding``, ``class_id``, ``palette``, ``num_classes``, ``defect_type`` and mmseg's ``label_map``,
    ``reduce_zero_label`` and ``seg_fields``; load it with ``LoadDefectAnnotations``. Data sets of index masks without
    clean files work with mmseg's ``LoadAnnotations`` as well; any other use of that transform is an error, because it
    would read 0/255 masks as "ignore everything".

    Args:
        split: name of the split; ``None`` takes every image of the layout.
        split_file: JSON written by ``tools/split_dataset.py``; a relative path is looked up from the working directory,
            then from ``data_root``.
        reduce_zero_label: must stay false: class 0 is the normal class and counts.
        metainfo: ``classes`` (the normal class first) and ``palette``. A selection of the built-in classes sets the
            others to ignore, as in mmseg; new names rename the classes in order.
        **kwargs: arguments of mmseg's ``BaseSegDataset``.
    """

    def __init__(
        self,
        split: str | None = None,
        split_file: str | None = None,
        reduce_zero_label: bool = False,
        metainfo: dict | None = None,
        **kwargs,
    ) -> None:
        if reduce_zero_label:
            raise ValueError('`reduce_zero_label` must be False, got True: class 0 is the normal class and counts.')
        if split_file is not None and split is None:
            raise ValueError(f"`split` must name one split of {split_file}, got None; for example split='train'.")
        self.split, self.split_file = split, split_file
        data_root = kwargs.get('data_root')
        if data_root is not None and not os.path.isdir(data_root):
            raise ValueError(f'`data_root` must be a folder, but {data_root} does not exist; correct the path.')
        super().__init__(reduce_zero_label=False, metainfo=self._with_palette(metainfo), **kwargs)

    @classmethod
    def get_label_map(cls, new_classes: Sequence[str] | None = None) -> dict[int, int] | None:
        """Return mmseg's map from old to new labels when ``new_classes`` is a selection of the built-in classes.

        Otherwise the new names take the place of the built-in ones, label value by label value.
        """
        if _is_renaming(cls.METAINFO.get('classes'), new_classes):
            return None
        return super().get_label_map(new_classes)

    @classmethod
    def _with_palette(cls, metainfo: dict | None) -> dict | None:
        """Give classes that come without colours the defect palette instead of random colours."""
        if not metainfo or 'classes' not in metainfo or 'palette' in metainfo:
            return metainfo
        classes = metainfo['classes']
        if cls.METAINFO.get('classes') is None or _is_renaming(cls.METAINFO['classes'], classes):
            return dict(metainfo, palette=defect_palette(len(classes)))
        return metainfo

    @abstractmethod
    def scan(self) -> list[Sample]:
        """Return every image of the layout with where its label comes from, in a stable order."""

    def split_notes(self) -> dict:
        """Return what a split file of this data set should record beside the division; JSON values."""
        return {}

    def load_data_list(self) -> list[dict]:
        """Scan the layout and keep the images of the split; an error says what is missing."""
        samples = self.scan()
        if not samples:
            raise ValueError(
                f'{self.data_root} must hold images in the layout of {type(self).__name__}, but none was found; '
                'correct `data_root`, or convert the data with tools/convert_dataset.py.'
            )
        return [self._data_info(sample) for sample in self._select(samples)]

    def full_init(self) -> None:
        """Load the list of images and check that the pipeline can read their labels."""
        if self._fully_initialized:
            return
        super().full_init()
        self._reject_plain_loader()

    def resolve_split_file(self) -> str:
        """Return the path of the split file: where it says, or below ``data_root``."""
        candidates = [str(self.split_file)]
        if self.data_root is not None and not os.path.isabs(candidates[0]):
            candidates.append(os.path.join(self.data_root, candidates[0]))
        for candidate in candidates:
            if os.path.isfile(candidate):
                return candidate
        raise ValueError(f'`split_file` must exist, but none of {candidates} does; make it: tools/split_dataset.py.')

    def _select(self, samples: Sequence[Sample]) -> list[Sample]:
        if self.split_file is not None:
            return self._select_listed(samples)
        if self.split is None:
            return list(samples)
        chosen = [s for s in samples if s.own_split == self.split]
        if not chosen:
            found = sorted({s.own_split for s in samples if s.own_split is not None})
            raise ValueError(
                f'{self.data_root} must hold images of the split {self.split!r}, but its folders give '
                f'{found or "no splits"}; name one of these, or make a `split_file` with tools/split_dataset.py.'
            )
        return chosen

    def _select_listed(self, samples: Sequence[Sample]) -> list[Sample]:
        file = self.resolve_split_file()
        entries = read_split(file).entries_of(self.split, file)
        by_path = {relative_path(s.img_path, self.data_root or '.'): s for s in samples}
        missing = [e.image for e in entries if e.image not in by_path]
        if missing:
            more = f' and {len(missing) - 1} more images' if len(missing) > 1 else ''
            raise ValueError(
                f'{file} names {missing[0]}{more}, which {type(self).__name__} does not find in {self.data_root}; '
                'correct `data_root`, restore the files, or make the split again.'
            )
        return [by_path[e.image] for e in entries]

    def _data_info(self, sample: Sample) -> dict:
        base_classes = self.METAINFO.get('classes') if self.label_map else None
        classes = base_classes or self._metainfo.get('classes')
        names = ('img_path', 'seg_map_path', 'mask_encoding', 'class_id', 'palette', 'defect_type', 'category')
        info = {name: getattr(sample, name) for name in names}
        info |= dict(num_classes=None if classes is None else len(classes), label_map=self.label_map)
        return info | dict(reduce_zero_label=self.reduce_zero_label, seg_fields=[], **sample.extra)

    def _reject_plain_loader(self) -> None:
        """Raise when mmseg's loader would have to read a label it cannot represent."""
        if not any(type(t) is LoadAnnotations for t in _leaves(self.pipeline)):
            return
        for index in range(len(self)):
            info = self.get_data_info(index)
            if info['seg_map_path'] is None or info['mask_encoding'] != 'index':
                raise ValueError(
                    f'the pipeline of {type(self).__name__} must load labels with LoadDefectAnnotations, not with '
                    f'LoadAnnotations, which cannot read that of {info["img_path"]} (no file, or no class indices).'
                )


def _is_renaming(old: Sequence[str] | None, new: Sequence[str] | None) -> bool:
    """Whether ``new`` holds a class that ``old`` does not know."""
    return old is not None and new is not None and not isinstance(new, str) and not set(new) <= set(old)


def _leaves(transform) -> list:
    """Return the single transforms inside a pipeline, also inside nested ones (choices, test-time augmentation)."""
    if isinstance(transform, (list, tuple)):
        return [leaf for child in transform for leaf in _leaves(child)]
    for attribute in ('transforms', 'subroutines'):
        children = getattr(transform, attribute, None)
        if children is not None:
            return _leaves(children)
    return [transform]
