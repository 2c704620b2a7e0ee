"""BiSeNetV1-R18 of the published runs with a twentieth of their updates: an hour on a core instead of a day."""

from pathlib import Path
from runpy import run_path

_base_ = 'wta_published.py'
name = 'wta_published_short'
title = 'The smallest of the published models, a twentieth of its updates, and the recipe'
text = (
    'BiSeNetV1 on ResNet-18 as in the logged runs (original labels, crop 256, batch 8, cross-entropy, SGD .01) with '
    '2,000 updates instead of 40,000, in bfloat16, from ImageNet weights of the first three stages, everything '
    'trained. The logged run reached a foreground mIoU of 26.89 after 40,000 updates, and 21.06 with diffusion edits '
    'that carry the labels of their sources. Chosen on validation, tested once; calibrated values use offsets fitted '
    'on validation.'
)
base = 'configs/bisenetv1/bisenetv1-r18_baseline_40k_wta-256.py'
bases = ['configs/_base_/weights/resnet18-l3_file.py']
iterations = 2000
val_interval = 500
overrides = {'amp': True, 'custom_hooks.3.min_share': 0.2}  # the spatial path and the fourth stage begin at random
seeds = [0]
_arms = run_path(str(Path(__file__).with_name('wta_published.py')))['arms']
arms = {name: _arms[name] for name in ('published', 'recipe')}
