"""Stands in for tools/test.py: reads the checkpoint, writes one image file, prints the end of an mmseg test log."""

import json
import zipfile
from pathlib import Path

from options import parse_args

args = parse_args()
cfg = {}
exec(Path(args.config).read_text(), cfg)
steps = len(json.loads(zipfile.ZipFile(args.checkpoint).read('trained_by')))
(args.out / 'part_1.png').write_bytes(b'')
print(f'Load checkpoint from {args.checkpoint}')
if cfg.get('test_fails'):
    raise RuntimeError('no test image')
print(
    f"""per class results:
01/02 03:04:05 - mmengine - INFO -
+----------+-------+-------+
|  Class   |  IoU  |  Acc  |
+----------+-------+-------+
|  normal  | 99.90 | 99.95 |
| attached | {30 + steps}.00 | 40.00 |
|  broken  | 20.00 |  nan  |
+----------+-------+-------+
01/02 03:04:05 - mmengine - INFO - Iter(test) [2/2]    aAcc: 99.9000  mIoU: 50.0000  mAcc: 69.9700  """
    + 'data_time: 0.0046  time: 0.0373'
)
for said in cfg.get('says', ()):
    print(f'01/02 03:04:05 - mmengine - INFO - {said}')
