"""few_defects.py on bottle of MVTec AD, 5 images of a type; the commands before it name bottle and the seeds 0 .. 4."""

from pathlib import Path
from runpy import run_path

globals().update(run_path(str(Path(__file__).with_name('few_defects.py')), dict(_product='bottle')))
