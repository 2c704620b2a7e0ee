"""Read and write the images and masks of generation, and carry them to tensors and back."""

import io
import os
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy import ndarray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from mmdefect.files import write_bytes

SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp')


def list_images(folder: str | os.PathLike) -> list[Path]:
    """Return the images directly inside a folder, sorted by name; a folder without any raises ``ValueError``."""
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f'{folder} must be a folder of images, but it does not exist; correct the path.')
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith('.'))
    if not found:
        raise ValueError(f'{folder} must hold images ({", ".join(SUFFIXES)}), but it holds none; correct the path.')
    return found


def labels_of(images: list[Path], labels: str | os.PathLike) -> dict[str, Path]:
    """Return the label file of every image by their common stem; a missing one raises ``ValueError``."""
    files = {path.stem: path for path in list_images(labels)}
    missing = [path for path in images if path.stem not in files]
    if missing:
        raise ValueError(
            f'`labels` must hold the label of every image, but {labels} has none for {missing[0]}; '
            'name the folder of their labels, or leave --labels out.'
        )
    return {path.stem: files[path.stem] for path in images}


def list_good(folder: str | os.PathLike, labels: str | os.PathLike | None = None) -> list[Path]:
    """Return the images of a folder; with a folder of labels only those whose label, of the same stem, is all zero.

    Raises:
        ValueError: if a label is missing, or every image shows a defect.
    """
    found = list_images(folder)
    if labels is None:
        return found
    files = labels_of(found, labels)
    good = [path for path in found if not read_mask(files[path.stem]).any()]
    if not good:
        raise ValueError(f'{folder} must hold a good image to generate in, but all labels in {labels} show defects.')
    return good


def read_image(path: str | os.PathLike) -> ndarray:
    """Return ``(H, W, 3)`` uint8 RGB; a file that is missing or no image raises ``ValueError``."""
    return np.asarray(_open(path).convert('RGB'))


def image_size(path: str | os.PathLike) -> tuple[int, int]:
    """Return height and width of an image file without decoding it."""
    with Image.open(path) as image:
        return image.height, image.width


def read_mask(path: str | os.PathLike, size_hw: tuple[int, int] | None = None) -> ndarray:
    """Return ``(H, W)`` bool, true where the file (one channel or colours) is not zero.

    Raises:
        ValueError: if the file is missing, no image, or of another size than ``size_hw``.
    """
    values = np.asarray(_open(path))
    mask = values.any(-1) if values.ndim == 3 else values != 0
    if size_hw is not None and mask.shape != tuple(size_hw):
        raise ValueError(
            f'the mask {path} must have the size of its image, {size_hw[1]}x{size_hw[0]} (width x height), '
            f'but it has {mask.shape[1]}x{mask.shape[0]}; make it for images of this size.'
        )
    return mask


def write_image(path: str | os.PathLike, image: ndarray) -> None:
    """Write a lossless PNG in one step: ``(H, W)`` or ``(H, W, 3)`` uint8 RGB, or bool, which becomes 0/255."""
    image = image.astype(np.uint8) * 255 if image.dtype == bool else image
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format='PNG')
    write_bytes(path, buffer.getvalue())


def _open(path: str | os.PathLike) -> Image.Image:
    try:
        image = Image.open(path)
        image.load()
    except FileNotFoundError as err:
        raise ValueError(f'the image {path} must exist, but it does not; correct the path.') from err
    except (UnidentifiedImageError, OSError) as err:
        raise ValueError(f'{path} must be an image, but it cannot be read ({err}); export it again.') from err
    return image


def image_tensor(image: ndarray, size_hw: tuple[int, int]) -> Tensor:
    """Return an image, ``(H, W, 3)`` uint8 RGB, as ``(3, h, w)`` float32 in [0, 1] of the given size."""
    if image.shape[:2] != tuple(size_hw):
        smaller = image.shape[0] > size_hw[0]
        image = cv2.resize(image, size_hw[::-1], interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC)
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))).float() / 255


def mask_tensor(mask: ndarray, size_hw: tuple[int, int]) -> Tensor:
    """Return a mask, ``(H, W)`` bool, as ``(1, h, w)`` bool; shrinking never empties it."""
    return shrink_mask(torch.from_numpy(mask.copy())[None, None], size_hw)[0]


def shrink_mask(mask: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Return ``(B, 1, H, W)`` bool at another size; a cell is set when any pixel of it is, so no defect gets lost."""
    return torch.nn.functional.adaptive_max_pool2d(mask.float(), size_hw) > 0


def to_uint8(images: Tensor) -> ndarray:
    """Return ``(B, 3, H, W)`` float in [0, 1] as ``(B, H, W, 3)`` uint8."""
    return (images * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def bounding_box(mask: ndarray) -> tuple[int, int, int, int]:
    """Return top, left, bottom, right of the set pixels of ``(H, W)`` bool, not empty; the last two exclusive."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1
