"""Where images come from: files, folders, patterns, lists and videos, decoded ahead of the network."""

import glob
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np

from mmdefect.deployment.decoding import MAX_PIXELS, DecodedImage, ImageError, ImageHeader, read_image

IMAGES = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp', '.npy')
VIDEOS = ('.mp4', '.avi', '.mov', '.mkv', '.webm', '.m4v')
#: Decoded pixels that may wait for the network, in bytes; one image always may.
AHEAD_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Source:
    """One image or video to predict."""

    path: Path
    name: str  # of its outputs, relative and without suffix
    frame: int | None = None  # number of the frame of a video

    @property
    def label(self) -> str:
        """What tables call it."""
        return str(self.path) if self.frame is None else f'{self.path}#{self.frame}'

    @property
    def is_video(self) -> bool:
        """Whether the file is a video."""
        return self.path.suffix.lower() in VIDEOS


def find_sources(arguments: Sequence[str], lines: Iterable[str] = ()) -> list[Source]:
    """List images and videos in order, each name once.

    Args:
        arguments: files, folders (searched through), patterns (``line3/*.png``, ``**`` for subfolders), or ``-``
            for the ``lines``, of which each is a file.
    """
    found: list[Source] = []
    for argument in arguments:
        path = Path(argument)
        if argument == '-':
            found += [_file(Path(line.strip())) for line in lines if line.strip()]
        elif path.is_dir():
            files = sorted(p for p in path.rglob('*') if p.suffix.lower() in (*IMAGES, *VIDEOS))
            found += [Source(p, p.relative_to(path).with_suffix('').as_posix()) for p in files]
            if not files:
                kinds = ' '.join(IMAGES)
                raise FileNotFoundError(f'the folder {path} must hold images ({kinds}) or videos, but holds none.')
        elif path.is_file():
            found.append(_file(path))
        else:
            files = sorted(glob.glob(argument, recursive=True)) if glob.has_magic(argument) else []
            if not files:
                raise FileNotFoundError(
                    f'{argument} must be a file, a folder or a pattern, but nothing is found there.'
                )
            found += [_file(Path(f)) for f in files if Path(f).is_file()]
    taken: dict[str, Source] = {}
    for source in _with_folders(found):
        other = taken.setdefault(source.name, source)
        if other.path != source.path:
            raise ValueError(
                f'every image must have a name of its own, but {other.path} and {source.path} would both be '
                f'written as {source.name}; predict them apart.'
            )
    return list(taken.values())


def _with_folders(found: Sequence[Source]) -> list[Source]:
    """Put the folders in front of a name that several files share, from the folder on that they have in common."""
    paths: dict[str, set[Path]] = {}
    for source in found:
        paths.setdefault(source.name, set()).add(source.path.absolute())
    shared = {name: os.path.commonpath([p.parent for p in own]) for name, own in paths.items() if len(own) > 1}
    return [
        replace(s, name=s.path.absolute().relative_to(shared[s.name]).with_suffix('').as_posix())
        if s.name in shared
        else s
        for s in found
    ]


def _file(path: Path) -> Source:
    if path.suffix.lower() not in (*IMAGES, *VIDEOS):
        raise ValueError(f'{path} must be an image ({" ".join(IMAGES)}) or a video ({" ".join(VIDEOS)}); convert it.')
    return Source(path, path.stem)


def count_frames(sources: Sequence[Source]) -> int:
    """Return the number of images; a video says how many frames it has (some say so wrongly)."""
    frames = 0
    for source in sources:
        if source.is_video:
            capture = cv2.VideoCapture(str(source.path))
            frames += max(1, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
            capture.release()
        else:
            frames += 1
    return frames


def decode_ahead(
    sources: Iterable[Source], workers: int = 2, max_pixels: int = MAX_PIXELS, skip: frozenset[str] = frozenset()
) -> Iterator[tuple[Source, DecodedImage | ImageError]]:
    """Decode in threads and yield in order, never more than :data:`AHEAD_BYTES` ahead, each image or its error.

    A video is yielded frame by frame; images of labels in ``skip`` are left out.
    """
    pending: deque[tuple[Source, Future, int]] = deque()

    def take_first() -> tuple[Source, DecodedImage | ImageError]:
        source, future, _ = pending.popleft()
        return source, future.result()

    with ThreadPoolExecutor(max(1, workers), 'decode') as pool:
        for source in sources:
            if source.is_video:
                while pending:
                    yield take_first()
                yield from _read_frames(source, skip)
            elif source.label not in skip:
                # the size is unknown before it is read: ten bytes of pixels for each of a compressed file is plenty
                size = 10 * source.path.stat().st_size if source.path.is_file() and source.path.suffix != '.npy' else 0
                while pending and (len(pending) > 4 * workers or sum(p[2] for p in pending) + size > AHEAD_BYTES):
                    yield take_first()
                pending.append((source, pool.submit(_read, source.path, max_pixels), size))
        while pending:
            yield take_first()


def _read(path: Path, max_pixels: int) -> DecodedImage | ImageError:
    try:
        return read_image(path, max_pixels)
    except ImageError as err:
        return err
    except OSError as err:
        fact = f'reading it fails ({err.strerror or err})'
        return ImageError(f'{path} must be readable, but {fact}; restore it.', 'broken')


def _read_frames(source: Source, skip: frozenset[str]) -> Iterator[tuple[Source, DecodedImage | ImageError]]:
    capture = cv2.VideoCapture(str(source.path))
    number = 0
    try:
        while capture.grab():
            frame = Source(source.path, f'{source.name}/frame_{number:06d}', number)
            number += 1
            if frame.label in skip:
                continue
            fine, pixels = capture.retrieve()
            if fine:
                pixels = np.ascontiguousarray(pixels[..., ::-1])
                yield frame, DecodedImage(pixels, ImageHeader('video', pixels.shape[:2]))
        if number == 0:
            text = f'{source.path} must be a video that OpenCV can read, but it yields no frame; convert it.'
            yield source, ImageError(text, 'broken')
    finally:
        capture.release()
