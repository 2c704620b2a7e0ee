"""few_defects.py on magnetic tiles, 5 images of a type.

Before it the split that configs/_base_/datasets/tiles_160.py names, and for the seeds N = 0 .. 4:
    python tools/split_fewer.py data/magnetic_tile/splits.json --shots 5 --seed N \
        --groups data/magnetic_tile/near_duplicate_groups.json
"""

from pathlib import Path
from runpy import run_path

globals().update(run_path(str(Path(__file__).with_name('few_defects.py')), dict(_product='tiles')))
