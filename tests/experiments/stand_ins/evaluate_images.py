"""Stands in for tools/test.py with predictions: the labels with noise that depends on the seed and on `quality`.

The config is a Python file with data_root, quality (share of the defect pixels found) and randomness.
"""

from pathlib import Path

import cv2
import numpy as np
from options import parse_args

args = parse_args()
cfg = {'quality': 0.5, 'randomness': {'seed': 0}}
exec(Path(args.config).read_text(), cfg)
rng = np.random.default_rng(cfg['randomness']['seed'])
confusion = np.zeros((3, 3), int)
for path in sorted((Path(cfg['data_root']) / 'ann_dir' / 'test').glob('*.png')):
    label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    found = rng.random(label.shape) < cfg['quality'] + rng.normal(0, 0.03)
    prediction = np.where(found, label, 0).astype(np.uint8)
    prediction[rng.random(label.shape) < 0.004] = 1
    cv2.imwrite(str(args.out / path.name), prediction)
    np.add.at(confusion, (label, prediction), 1)
hit = np.diag(confusion)
iou, acc = 100 * hit / (confusion.sum(0) + confusion.sum(1) - hit), 100 * hit / confusion.sum(1)
rows = '\n'.join(
    f'| {n} | {i:.2f} | {a:.2f} |' for n, i, a in zip(('normal', 'attached', 'broken'), iou, acc, strict=True)
)
print(f'Load checkpoint from {args.checkpoint}')
print(f'+---+\n|  Class   |  IoU  |  Acc  |\n+---+\n{rows}\n+---+')
print(
    f'01/02 03:04:05 - mmengine - INFO - Iter(test) [6/6]    aAcc: {100 * hit.sum() / confusion.sum():.4f}  '
    f'mIoU: {iou.mean():.4f}  mAcc: {acc.mean():.4f}  fg_mIoU: {iou[1:].mean():.4f}  data_time: 0.0046  time: 0.0373'
)
