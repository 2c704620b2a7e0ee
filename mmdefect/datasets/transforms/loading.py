"""Load label maps of defects: clean images without a file, 0/255 masks, class indices and palette colours."""

from __future__ import annotations

import numpy as np
from mmcv.transforms import BaseTransform
from mmengine import fileio

from mmdefect.datasets.masks import IGNORE, decode_mask, image_size_hw, label_from_raw
from mmdefect.registry import TRANSFORMS


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
        """Add ``gt_seg_map``.

        Raises:
            ValueError: if the mask is missing, unreadable, of another size than its image, or holds values outside the
                classes; the message names the file.
        """
        if 'seg_map_path' not in results:
            return results
        size_hw = results['ori_shape'] if 'ori_shape' in results else image_size_hw(results['img_path'])
        path = results['seg_map_path']
        if path is None:
            label = np.zeros(size_hw, np.uint8)
        else:
            label = self._load(path, results)
            if label.shape != tuple(size_hw):
                raise ValueError(
                    f'the mask {path} must have the size of its image {results["img_path"]}, {size_hw[1]}x{size_hw[0]} '
                    f'(width x height), but it has {label.shape[1]}x{label.shape[0]}; export it at the size of the '
                    'image.'
                )
        results['gt_seg_map'] = _map_labels(label, results.get('label_map'))
        results.setdefault('seg_fields', []).append('gt_seg_map')
        if results.get('box_labels'):
            defect = (results['gt_seg_map'] > 0) & (results['gt_seg_map'] != IGNORE)
            results['gt_box_map'] = defect.astype(np.uint8)
            results['seg_fields'].append('gt_box_map')
        return results

    def _load(self, path: str, results: dict) -> np.ndarray:
        encoding = results.get('mask_encoding', 'index')
        raw = decode_mask(_read(path, self.backend_args), encoding, path)
        return label_from_raw(
            raw, encoding, path, results.get('num_classes'), results.get('class_id'), results.get('palette')
        )

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
        """Add ``gt_object_map``.

        Raises:
            ValueError: if the mask is missing, unreadable or of another size than its image.
        """
        size_hw = results['ori_shape'] if 'ori_shape' in results else image_size_hw(results['img_path'])
        path = results.get('object_mask_path')
        if path is None:
            mask = np.ones(size_hw, np.uint8)
        else:
            raw = decode_mask(_read(path, self.backend_args), 'binary', path)
            mask = (raw != 0).astype(np.uint8)
            if mask.shape != tuple(size_hw):
                raise ValueError(
                    f'the object mask {path} must have the size of its image, {size_hw[1]}x{size_hw[0]} (width x '
                    f'height), but it has {mask.shape[1]}x{mask.shape[0]}; export it at the size of the image.'
                )
        results['gt_object_map'] = mask
        results.setdefault('seg_fields', []).append('gt_object_map')
        return results

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}(backend_args={self.backend_args})'


def _read(path: str, backend_args: dict | None) -> bytes:
    try:
        return fileio.get(path, backend_args=backend_args)
    except FileNotFoundError as err:
        raise ValueError(f'the mask {path} does not exist; restore it, or take its image out of the data set.') from err


def _map_labels(label: np.ndarray, label_map: dict[int, int] | None) -> np.ndarray:
    """Apply mmseg's ``label_map`` (old class to new class or 255)."""
    if not label_map:
        return label
    table = np.arange(256, dtype=np.uint8)
    for old, new in label_map.items():
        table[old] = new
    return table[label]
