"""few_defects.py on VisA macaroni1, 5 and 10 images.

Before it, in data/macaroni1 links images, masks and good to Data/Images/Anomaly, Data/Masks/Anomaly and
Data/Images/Normal of the download, and the second command for the seeds N = 0 .. 7:
    python tools/split_dataset.py data/macaroni1 --layout folder --protocol fractions \
        --fractions train=0.5 val=0.1 test=0.4
    python tools/split_fewer.py data/macaroni1/splits.json --shots 5 10 --seed N
"""

from pathlib import Path
from runpy import run_path

globals().update(run_path(str(Path(__file__).with_name('few_defects.py')), dict(_product='macaroni1')))
