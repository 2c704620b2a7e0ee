"""What have policies of a bi-level training, one of each seed, learned about places?

Run from the root of the repository::

    python benchmarks/learned_places.py work_dirs/bilevel_wta/*/policy --data data/wta512 --classes attached broken
    python benchmarks/learned_places.py work_dirs/bilevel_tiles/*/policy --name learned_places_tiles

*spread*: the 95th over the 5th percentile of a policy's maps. *correlation*: of the maps of two policies for the same
class or image, the mean over them; policies that learned something about the product agree. With ``--data``, for maps
of classes, *learned*: the area under the ROC curve of the map as a detector of the defect pixels of validation and test
by their place in the frame, .5 knows nothing; beside it that of the plain density of the defects of training.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from pathlib import Path

import common  # isort: skip  (sets the number of threads: before torch)

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mmdefect.synthesis.places import GRID, empirical_density


def count_places(folder: Path, splits: tuple[str, ...], classes: int) -> np.ndarray:
    """Return how many pixels of each class (0 is sound) lie in each cell of the frame, ``(classes + 1, GRID,
    GRID)``."""
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


def read_maps(policy: Path) -> dict[str, np.ndarray]:
    """Return the maps of a policy by class number or by image."""
    if (policy / 'maps.npy').is_file():
        return {str(class_id): one for class_id, one in enumerate(np.load(policy / 'maps.npy')) if class_id}
    maps = {path.stem: np.load(path) for path in sorted((policy / 'maps').glob('*.npy'))}
    if not maps:
        raise SystemExit(
            f'error: {policy} must hold maps.npy or maps/*.npy, but there are none; name policies that learned places.'
        )
    return maps


def agreement(policies: list[dict[str, np.ndarray]]) -> list[dict]:
    """Return the spread of each policy, and the correlation of each two."""
    rows = []
    for number, maps in enumerate(policies):
        low, high = np.percentile(np.concatenate([one.ravel() / one.mean() for one in maps.values()]), (5, 95))
        rows.append(dict(policies=str(number), spread=round(float(high / low), 2), correlation='–'))
    for (a, first), (b, second) in itertools.combinations(enumerate(policies), 2):
        shared = [name for name in first if name in second and first[name].std() > 0 and second[name].std() > 0]
        each = [np.corrcoef(first[name].ravel(), second[name].ravel())[0, 1] for name in shared]
        rows.append(
            dict(policies=f'{a} and {b}', spread='–', correlation=round(float(np.mean(each)), 2) if each else '–')
        )
    return rows


def detection(policies: list[dict[str, np.ndarray]], data: Path, classes: list[str]) -> list[dict]:
    """Return how well each map of a class finds defects that the policy has not seen."""
    count = len(classes)
    if any(sorted(maps) != [str(class_id) for class_id in range(1, count + 1)] for maps in policies):
        raise SystemExit(
            f'error: with --data every policy must have one map for each of the {count} --classes, but there are '
            f'{sorted({len(maps) for maps in policies})}; name all classes, or leave --data out.'
        )
    seen, unseen = (count_places(data, splits, count) for splits in (('train',), ('val', 'test')))
    plain, even = empirical_density(seen), np.ones((GRID, GRID))
    return [
        {
            'policy': str(number),
            'class': name,
            'defect_pixels': int(unseen[class_id].sum()),
            'learned': round(weighted_auc(maps[str(class_id)], unseen[class_id], even), 3),
            'density_of_training': round(weighted_auc(plain[class_id], unseen[class_id], even), 3),
        }
        for number, maps in enumerate(policies)
        for class_id, name in enumerate(classes, 1)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('policies', type=Path, nargs='+', help='policy folders of trainings that differ in the seed')
    parser.add_argument('--data', type=Path, help='folder with ann_dir/train, val and test')
    parser.add_argument('--classes', nargs='+', default=[], help='names of classes 1, 2, .. of --data')
    parser.add_argument('--name', default='learned_places', help='of the record below benchmarks/results')
    args = parser.parse_args()
    policies = [read_maps(policy) for policy in args.policies]
    results = dict(agreement=agreement(policies))
    if args.data:
        results['detection'] = detection(policies, args.data, args.classes)
    print('\n\n'.join(common.format_table(rows) for rows in results.values()))
    print(common.write_record(args.name, results))


if __name__ == '__main__':
    main()
