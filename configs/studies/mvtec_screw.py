"""mvtec_bottle.py with screw, whose parts lie at any angle; the commands before it are the same with that category."""

from pathlib import Path
from runpy import run_path

globals().update(run_path(str(Path(__file__).with_name('mvtec_bottle.py')), dict(_product='screw')))
