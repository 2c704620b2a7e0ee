"""Find images of one part, or edited copies of one image, so that a split keeps them on one side.

Products in a fixed pose all look alike, so plain perceptual hashes call everything a duplicate: on the 400 cutting
inserts of the WTA set half of all pairs differ in at most 2 of 64 dHash bits. What all images share is therefore
removed first: each thumbnail is normalised, and the mean and the first principal components of the set are projected
out. Two images are near duplicates when what remains points the same way.

Measured by tests/datasets/test_near_duplicates.py: diffusion edits of WTA training images are found with
precision .89 and recall .55, exposures of one magnetic tile with precision .80 and recall .56 (pairs of images).

Not covered: copies that are mirrored, rotated or cropped, and sets of fewer than four images (exact copies only).
"""

from collections import defaultdict
from collections.abc import Sequence

import cv2
import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import squareform

THUMBNAIL = 64
MIN_IMAGES = 4
MAX_COMPONENTS = 16
IMAGES_PER_COMPONENT = 24
#: Largest cosine distance of two near duplicates, once enough images show what is common to all of them.
DISTANCE = 0.45
#: The same while there are too few images for that: two cameras or lightings alone must not look like duplicates.
DISTANCE_FEW = 0.1
_FIT_IMAGES = 1024
_BLOCK = 1024


def thumbnail(image: np.ndarray) -> np.ndarray:
    """Shrink an image, ``(H, W)`` or ``(H, W, 3)`` uint8 BGR, to ``(64, 64)`` float32 in [0, 255]."""
    grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    return cv2.resize(grey.astype(np.float32), (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)


def exact_duplicates(hashes: Sequence[str | int]) -> list[tuple[int, ...]]:
    """Group the indices of equal content hashes (or other labels); groups of one are left out."""
    groups = defaultdict(list)
    for index, value in enumerate(hashes):
        groups[value].append(index)
    return [tuple(g) for g in groups.values() if len(g) > 1]


def near_duplicates(thumbnails: np.ndarray, distance: float | None = None) -> list[tuple[int, ...]]:
    """Group images that show the same part or are copies of one.

    Pairs below the distance are linked; each connected part is then cut by average linkage, so that a chain of
    look-alikes does not swallow the whole set.

    Args:
        thumbnails: ``(N, 64, 64)`` float32 in [0, 255], from :func:`thumbnail`.
        distance: largest cosine distance in [0, 2]; ``None`` takes ``DISTANCE`` or, below 48 images, ``DISTANCE_FEW``.

    Returns:
        Groups of two and more indices, ordered by their first one.
    """
    count = len(thumbnails)
    if count < MIN_IMAGES:
        return []
    components = min(MAX_COMPONENTS, count // IMAGES_PER_COMPONENT)
    if distance is None:
        distance = DISTANCE if components >= 2 else DISTANCE_FEW
    features = _residuals(np.asarray(thumbnails, np.float32).reshape(count, -1), components)
    groups = []
    for group in _connected(count, *_close_pairs(features, distance)):
        groups += _cut(np.array(group), features, distance)
    return sorted(groups)


def merge_groups(count: int, *groupings: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """Join groupings of the indices 0..count-1: images that any of them puts together end up together."""
    pairs = [(group[0], other) for groups in groupings for group in groups for other in group[1:]]
    return _connected(count, *np.array(pairs, int).reshape(-1, 2).T)


def _connected(count: int, rows: np.ndarray, columns: np.ndarray) -> list[tuple[int, ...]]:
    """Group the indices 0..count-1 that are linked by pairs, also through others."""
    graph = coo_matrix((np.ones(len(rows), bool), (rows, columns)), shape=(count, count))
    return exact_duplicates(connected_components(graph, directed=False)[1].tolist())


def _residuals(vectors: np.ndarray, components: int) -> np.ndarray:
    """Remove brightness, contrast, the mean and the first principal directions; scale rows to length one."""
    vectors = _unit_rows(vectors - vectors.mean(axis=1, keepdims=True))
    vectors = vectors - vectors.mean(axis=0)
    if components:
        step = -(-len(vectors) // _FIT_IMAGES)  # evenly spread rows: nothing random, and bounded work for large sets
        basis = np.linalg.svd(vectors[::step], full_matrices=False)[2][:components]
        vectors = vectors - (vectors @ basis.T) @ basis
    return _unit_rows(vectors)


def _unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Scale rows to length one; what is nothing but rounding becomes zero, which is close to no other row."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.where(norms > 1e-5, vectors / np.maximum(norms, 1e-5), 0).astype(np.float32)


def _close_pairs(features: np.ndarray, distance: float) -> tuple[np.ndarray, np.ndarray]:
    rows, columns = [np.empty(0, int)], [np.empty(0, int)]
    for start in range(0, len(features), _BLOCK):
        close = 1 - features[start : start + _BLOCK] @ features[start:].T <= distance
        row, column = np.nonzero(np.triu(close, 1))
        rows.append(row + start)
        columns.append(column + start)
    return np.concatenate(rows), np.concatenate(columns)


def _cut(members: np.ndarray, features: np.ndarray, distance: float) -> list[tuple[int, ...]]:
    if len(members) == 2:
        return [tuple(int(m) for m in members)]
    apart = np.clip(1 - features[members] @ features[members].T, 0, 2).astype(np.float64)
    np.fill_diagonal(apart, 0)
    labels = fcluster(linkage(squareform(apart, checks=False), 'average'), distance, 'distance')
    return [tuple(int(m) for m in members[labels == k]) for k in np.unique(labels) if (labels == k).sum() > 1]
