"""Load label maps of defects and what says where the object is, before any resize or crop.

Labels come as class indices, 0/255 masks or palette colours; clean images need no file.
"""

import os
from collections import OrderedDict
from functools import lru_cache

import cv2
import numpy as np
from mmcv.transforms import BaseTransform
from mmengine import fileio
from numpy import ndarray

from mmdefect.datasets.masks import IGNORE, decode_mask, image_size_hw, label_from_raw
from mmdefect.datasets.samples import index_by_stem, list_images
from mmdefect.registry import TRANSFORMS
from mmdefect.synthesis.foreground import small_foreground
from mmdefect.synthesis.library import DETAIL
from mmdefect.synthesis.places import location_codes, map_density

OBJECTS = ('frame', 'foreground', 'masks', 'template')


@TRANSFORMS.register_module()
class LoadDefectAnnotations(BaseTransform):
    """Load the label map of a defect image; takes the place of mmseg's ``LoadAnnotations``.

    It works before or after the resize: the label always has the native resolution of the image file, as mmseg's
    metrics need it in the test pipeline. Without ``seg_map_path`` in the input (inference on a new image) nothing is
    loaded.

    Required keys: ``img_path``; from the data set ``seg_map_path`` (``None`` for a clean image), and optionally
    ``mask_encoding`` (default ``'index'``), ``class_id``, ``palette``, ``num_classes``, ``label_map``.

    Added keys: ``gt_seg_map``, ``(H, W)`` uint8 with 0 normal, 1..K defects and 255 ignore; its name in ``seg_fields``.
    With a true ``box_labels`` in the input also ``gt_box_map``, 1 on its defects: they are boxes, for ``WeakBoxLoss``.

    Args:
        backend_args: file backend of mmengine; local files by default.
    """

    def __init__(self, backend_args: dict | None = None) -> None:
        self.backend_args = backend_args

    def transform(self, results: dict) -> dict:
        """Add ``gt_seg_map``; errors name the file."""
        if 'seg_map_path' not in results:
            return results
        size_hw = results['ori_shape'] if 'ori_shape' in results else image_size_hw(results['img_path'])
        path = results['seg_map_path']
        if path is None:
            label = np.zeros(size_hw, np.uint8)
        else:
            encoding = results.get('mask_encoding', 'index')
            raw = _read(path, encoding, size_hw, results['img_path'], self.backend_args)
            num_classes, class_id = results.get('num_classes'), results.get('class_id')
            label = label_from_raw(raw, encoding, path, num_classes, class_id, results.get('palette'))
        results['gt_seg_map'] = _map_labels(label, results.get('label_map'))
        results.setdefault('seg_fields', []).append('gt_seg_map')
        if results.get('box_labels'):
            defect = (results['gt_seg_map'] > 0) & (results['gt_seg_map'] != IGNORE)
            results['gt_box_map'] = defect.astype(np.uint8)
            results['seg_fields'].append('gt_box_map')
        return results

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}(backend_args={self.backend_args})'


@TRANSFORMS.register_module()
class LoadObjectMask(BaseTransform):
    """Load the mask of the inspected object, where defects may be pasted.

    Required keys: ``ori_shape`` or ``img_path``; ``object_mask_path`` (``None`` or absent: the object fills the image).

    Added keys: ``gt_object_map``, ``(H, W)`` uint8 with 1 on the object, 0 elsewhere; its name in ``seg_fields``, so
    that mmseg's resize, crop and flip move it with the image.

    Args:
        backend_args: file backend of mmengine; local files by default.
    """

    def __init__(self, backend_args: dict | None = None) -> None:
        self.backend_args = backend_args

    def transform(self, results: dict) -> dict:
        """Add ``gt_object_map``."""
        size_hw = results['ori_shape'] if 'ori_shape' in results else image_size_hw(results['img_path'])
        path = results.get('object_mask_path')
        if path is None:
            mask = np.ones(size_hw, np.uint8)
        else:
            mask = (_read(path, 'binary', size_hw, results.get('img_path'), self.backend_args) != 0).astype(np.uint8)
        results['gt_object_map'] = mask
        results.setdefault('seg_fields', []).append('gt_object_map')
        return results

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}(backend_args={self.backend_args})'


def _read(path: str, encoding: str, size_hw: tuple[int, int], image: str | None, backend_args: dict | None) -> ndarray:
    """Return the decoded mask of an image, which has a size."""
    try:
        data = fileio.get(path, backend_args=backend_args)
    except FileNotFoundError as err:
        raise ValueError(f'the mask {path} does not exist; restore it, or take its image out of the data set.') from err
    mask = decode_mask(data, encoding, path)
    if mask.shape[:2] != tuple(size_hw):
        raise ValueError(
            f'the mask {path} must have the size of its image {image}, {size_hw[1]}x{size_hw[0]} (width x height), but '
            f'it has {mask.shape[1]}x{mask.shape[0]}; export it at the size of the image.'
        )
    return mask


def _map_labels(label: np.ndarray, label_map: dict[int, int] | None) -> np.ndarray:
    """Apply mmseg's ``label_map`` (old class to new class or 255)."""
    if not label_map:
        return label
    table = np.arange(256, dtype=np.uint8)
    for old, new in label_map.items():
        table[old] = new
    return table[label]


@TRANSFORMS.register_module()
class LoadLocationMap(BaseTransform):
    """Add the location codes of the image, which its resize, crop and flip then move along with the label map.

    Place it behind the loading of image and label. The synthesis step of a config does so.

    Required keys: ``img``; ``img_path``; with ``object='masks'`` and no folder ``object_mask_path``.

    Added keys: ``gt_location_map``, ``(H, W)`` float32 location codes, its name in ``seg_fields``; ``shows_defect``,
    whether the whole label map has a defect; with ``density`` also ``location_density``, ``(GRID, GRID)`` float32, or
    ``(K + 1, GRID, GRID)`` with a map for each class.

    Args:
        object: where the object is. ``'frame'``: everywhere. ``'foreground'``: found in each image. ``'masks'``: in a
            folder of masks with the stems of the images, or under ``object_mask_path``. ``'template'``: the foreground
            of one image of a part in the same pose, for all.
        masks: folder of object masks, for ``object='masks'``.
        template: path of the image, for ``object='template'``.
        density: learned map of likely places in the frame: an image or ``.npy`` for all images, or a folder with one
            for each stem. An ``.npy`` of three dimensions holds a map for each class, row 0 (normal) is not used.
        margin: a foreground that was found ends this many pixels of the image, as it was read, before its outline,
            where pixels are mixed of object and background. Masks that were given count as they are.
        cache_size: number of foregrounds remembered in each worker, 18 kB each.
    """

    def __init__(
        self,
        object: str = 'foreground',
        masks: str | None = None,
        template: str | None = None,
        density: str | None = None,
        margin: int = 2,
        cache_size: int = 1024,
    ) -> None:
        if object not in OBJECTS:
            raise ValueError(f'`object` must be one of {", ".join(OBJECTS)}, got {object!r}.')
        if (template is None) == (object == 'template'):
            raise ValueError(f"`template` must be an image exactly when `object` is 'template', got {template!r}.")
        if margin < 0:
            raise ValueError(f'`margin` must be a number of pixels from 0 on, got {margin!r}.')
        self.object, self.masks, self.template, self.density = object, masks, template, density
        self.margin, self.cache_size = margin, cache_size
        self._foregrounds: OrderedDict[str, tuple[ndarray, tuple[int, int]]] = OrderedDict()
        self._folders: dict[str, dict[str, str]] = {}

    def transform(self, results: dict) -> dict:
        """Add the map."""
        size_hw = results['img'].shape[:2]
        results['gt_location_map'] = location_codes(size_hw, self._object_mask(results, size_hw))
        results.setdefault('seg_fields', []).append('gt_location_map')
        label = results.get('gt_seg_map')
        results['shows_defect'] = label is not None and bool(((label > 0) & (label != IGNORE)).any())
        if self.density is not None:
            path = self._of_image(self.density, results['img_path']) if os.path.isdir(self.density) else self.density
            results['location_density'] = _density(path)
        return results

    def _object_mask(self, results: dict, size_hw: tuple[int, int]) -> ndarray | None:
        if self.object == 'frame':
            return None
        if self.object == 'masks':
            path = results.get('object_mask_path')
            if self.masks is not None:
                path = self._of_image(self.masks, results['img_path'])
            if path is None:
                return None
            small = (decode_mask(np.fromfile(path, np.uint8).tobytes(), 'binary', path) != 0).astype(np.uint8)
        elif self.object == 'template':
            small = _template(self.template)
        else:
            small = self._foreground(results['img_path'], results['img'])
        mask = small if small.shape == size_hw else cv2.resize(small, size_hw[::-1], interpolation=cv2.INTER_NEAREST)
        if self.object == 'masks' or not self.margin:
            return mask
        side = 2 * self.margin + 1
        return cv2.erode(mask, np.ones((side, side), np.uint8))  # what lies beyond the frame takes nothing away

    def _foreground(self, path: str, image: ndarray) -> ndarray:
        entry = self._foregrounds.get(path)
        if entry is None:
            mask = small_foreground(image, DETAIL)
            self._foregrounds[path] = np.packbits(mask), mask.shape
            if len(self._foregrounds) > self.cache_size:
                self._foregrounds.popitem(last=False)
            return mask
        bits, shape = entry
        return np.unpackbits(bits, count=shape[0] * shape[1]).reshape(shape)

    def _of_image(self, folder: str, img_path: str) -> str:
        if folder not in self._folders:
            arrays = sorted(os.path.join(folder, name) for name in os.listdir(folder) if name.endswith('.npy'))
            self._folders[folder] = index_by_stem(list_images(folder) + arrays, suffixes=('_mask',))
        stem = os.path.splitext(os.path.basename(img_path))[0]
        if stem not in self._folders[folder]:
            raise ValueError(
                f'{folder} must hold a file {stem}.png or {stem}_mask.png for {img_path}, but there is none; add it.'
            )
        return self._folders[folder][stem]

    def __repr__(self) -> str:
        return (
            f'{self.__class__.__name__}(object={self.object!r}, masks={self.masks!r}, template={self.template!r}, '
            f'density={self.density!r}, margin={self.margin})'
        )


@lru_cache(maxsize=4)
def _template(path: str) -> ndarray:
    return small_foreground(_read_image(path, cv2.IMREAD_COLOR), DETAIL)


@lru_cache(maxsize=256)
def _density(path: str) -> ndarray:
    array = np.load(path) if path.endswith('.npy') else _read_image(path, cv2.IMREAD_GRAYSCALE)
    return map_density(array) if array.ndim != 3 else np.stack([map_density(one) for one in array])


def _read_image(path: str, flag: int) -> ndarray:
    image = cv2.imread(path, flag)
    if image is None:
        raise ValueError(f'{path} must be an image that can be read, but it is not; correct the path.')
    return image
