"""Read images and masks for generation, and write them so that nobody ever finds half of one."""

from __future__ import annotations

import errno
import io
import os
import tempfile
from pathlib import Path

import numpy as np
from numpy import ndarray
from PIL import Image, UnidentifiedImageError

SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp')


def list_images(folder: str | os.PathLike) -> list[Path]:
    """Return the images directly inside a folder, sorted by name.

    Raises:
        ValueError: if the folder is missing or holds none.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f'{folder} must be a folder of images, but it does not exist; correct the path.')
    found = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith('.'))
    if not found:
        raise ValueError(f'{folder} must hold images ({", ".join(SUFFIXES)}), but it holds none; correct the path.')
    return found


def list_clean(folder: str | os.PathLike, labels: str | os.PathLike | None = None) -> list[Path]:
    """Return the images of a folder; with a folder of labels only those whose label, of the same stem, is all zero.

    Raises:
        ValueError: if a label is missing, or no image is clean.
    """
    found = list_images(folder)
    if labels is None:
        return found
    files = {path.stem: path for path in list_images(labels)}
    missing = [path for path in found if path.stem not in files]
    if missing:
        raise ValueError(
            f'`labels` must hold the label of every image, but {labels} has none for {missing[0]}; name '
            'the folder of their labels, or leave it out if all images are clean.'
        )
    clean = [path for path in found if not read_mask(files[path.stem]).any()]
    if not clean:
        raise ValueError(f'{folder} must hold a clean image to generate in, but all labels in {labels} show defects.')
    return clean


def read_image(path: str | os.PathLike) -> ndarray:
    """Return ``(H, W, 3)`` uint8 RGB.

    Raises:
        ValueError: if the file is missing or no image.
    """
    return np.asarray(_open(path).convert('RGB'))


def read_mask(path: str | os.PathLike, size_hw: tuple[int, int] | None = None) -> ndarray:
    """Return ``(H, W)`` bool, true where the file is not zero.

    Args:
        path: mask file with one channel, or colours of which any is not zero.
        size_hw: size that the mask must have.

    Raises:
        ValueError: if the file is missing, no image, or of another size.
    """
    values = np.asarray(_open(path))
    mask = values.any(-1) if values.ndim == 3 else values != 0
    if size_hw is not None and mask.shape != tuple(size_hw):
        raise ValueError(
            f'the mask {path} must have the size of its image, {size_hw[1]}x{size_hw[0]} (width x '
            f'height), but it has {mask.shape[1]}x{mask.shape[0]}; make it for images of this size.'
        )
    return mask


def write_image(path: str | os.PathLike, photo: ndarray) -> None:
    """Write a lossless PNG: ``(H, W)`` or ``(H, W, 3)`` uint8 RGB, or bool, which becomes 0/255."""
    photo = photo.astype(np.uint8) * 255 if photo.dtype == bool else photo
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, format='PNG')
    write_bytes(path, buffer.getvalue())


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
    """Write a file beside its final place and rename it.

    Raises:
        OSError: if it cannot be written; a full disk is named as such. Nothing is left behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f'.{path.name}.', suffix='.tmp')
    try:
        with os.fdopen(handle, 'wb') as file:
            file.write(content)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException as err:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(err, OSError) and err.errno in (errno.ENOSPC, errno.EDQUOT):
            raise disk_full(path, err) from err
        raise


def disk_full(path: Path, err: OSError) -> OSError:
    """Return the error of a full disk in words that say how to go on."""
    return OSError(
        err.errno,
        f'the disk must have room for {path}, but it is full; free some space and start the same '
        'command again: what is finished is kept and not made twice',
    )


def _open(path: str | os.PathLike) -> Image.Image:
    try:
        image = Image.open(path)
        image.load()
    except FileNotFoundError as err:
        raise ValueError(f'the image {path} must exist, but it does not; correct the path.') from err
    except (UnidentifiedImageError, OSError) as err:
        raise ValueError(f'{path} must be an image, but it cannot be read ({err}); export it again.') from err
    return image
