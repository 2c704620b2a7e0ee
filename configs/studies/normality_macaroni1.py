r"""normality.py on VisA macaroni1, 5 images; few_defects_macaroni1.py says how it is divided.

Then, for the seeds N = 0 .. 4:
    python tools/split_fewer.py data/macaroni1/splits.json --shots 5 --seed N --spare-to val \
        --out data/macaroni1/dev_{shots}_N.json
"""

from pathlib import Path
from runpy import run_path

globals().update(run_path(str(Path(__file__).with_name('normality.py')), dict(_product='macaroni1')))
