"""Do learned maps say where defects are? Against the places of real defects that the policy has not seen, and of those it has.

Run from the root of the repository, with the policies of a bi-level training that learned a map for each class::

    python benchmarks/learned_places.py data/wta512 work_dirs/bilevel_wta/*/policy --classes attached broken

A value is the area under the ROC curve of the map as a detector of defect pixels of validation and test by their place in
the frame: .5 is a map that knows nothing. Beside it stands the plain density of the defects of training.
"""
from __future__ import annotations

import argparse
import sys
from pathlib import Path

import common  # isort: skip  (sets the number of threads: before torch)

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmdefect.synthesis.location import GRID, empirical_density


def count_places(folder: Path, splits: tuple[str, ...], classes: int) -> np.ndarray:
    """Return how many pixels of each class (0 is sound) lie in each cell of the frame, ``(classes + 1, GRID, GRID)``."""
    found = np.zeros((classes + 1, GRID, GRID))
    paths = [path for split in splits for path in sorted((folder / 'ann_dir' / split).glob('*.png'))]
    if not paths:
        raise SystemExit(f'error: {folder}/ann_dir must hold the labels of {" and ".join(splits)}, but there are none.')
    for path in paths:
        label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        for class_id in range(1, classes + 1):
            mask = (label == class_id).astype(np.float32)
            found[class_id] += cv2.resize(mask, (GRID, GRID), interpolation=cv2.INTER_AREA) * mask.size / GRID**2
    return found


def weighted_auc(scores: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> float:
    """Return the chance that a draw with weights ``positive`` has a higher score than one with weights ``negative``."""
    values, index = np.unique(scores.ravel(), return_inverse=True)
    good = np.bincount(index.ravel(), positive.ravel() / positive.sum(), len(values))
    bad = np.bincount(index.ravel(), negative.ravel() / negative.sum(), len(values))
    below = np.cumsum(bad) - bad
    return float((good * (below + bad / 2)).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('data', type=Path, help='folder with ann_dir/train, val and test')
    parser.add_argument('policies', type=Path, nargs='+', help='folders with maps.npy')
    parser.add_argument('--classes', nargs='+', required=True, help='names of classes 1, 2, ..')
    parser.add_argument('--name', default='learned_places', help='of the record below benchmarks/results')
    args = parser.parse_args()
    count = len(args.classes)
    seen, unseen = (count_places(args.data, splits, count) for splits in (('train',), ('val', 'test')))
    plain = empirical_density(seen)
    rows = []
    for policy in args.policies:
        maps = np.load(policy / 'maps.npy')
        if maps.shape != (count + 1, GRID, GRID):
            raise SystemExit(f'error: {policy}/maps.npy must be {count + 1} maps of {GRID}x{GRID}, one for each class and sound '
                             f'places first, but it is {maps.shape}; name the {len(maps) - 1} classes with --classes.')
        for class_id, name in enumerate(args.classes, 1):
            even = np.ones((GRID, GRID))
            rows.append({'policy': policy.parent.name, 'class': name,
                         'defect_pixels': int(unseen[class_id].sum()),
                         'learned': round(weighted_auc(maps[class_id], unseen[class_id], even), 3),
                         'density_of_training': round(weighted_auc(plain[class_id], unseen[class_id], even), 3)})
    print(common.format_table(rows))
    print(common.write_record(args.name, rows))


if __name__ == '__main__':
    main()
