"""Does the recommended recipe still help when a model trains three times as long?"""

name = 'wta_long'
title = 'Three times the updates, with and without pasted defects on the cutting inserts'
text = ('FPN on a frozen ResNet-18 without its fourth stage, ImageNet weights (`weights/`), as in wta_models.py but 1,500 updates. '
        '`kept`: half of the draws are real pictures, a quarter clean ones with real defects blended in, a quarter clean '
        'ones. Chosen on validation, tested once; calibrated values use offsets fitted on validation.')
base = 'configs/fpn/fpn-r18-l3-frozen_baseline_900_wta-256.py'
factor = dict(name='synthesis', keys=['*synthesis*', '*sampler*', '*dataset*', '*custom_hooks*'])
iterations = 1500
val_interval = 250
seeds = [0, 1, 2]
selection = dict(metric='cal_fg_mIoU', tie='last')
metrics = [
    'cal_fg_mIoU', 'fg_AP', 'fg_mIoU', 'AP.attached', 'AP.broken', 'tIoU.attached', 'tIoU.broken', 'cRecall',
    'FA_per_image'
]
baseline = 'none'
bases = ['configs/_base_/weights/resnet18-l3_file.py']
overrides = {'amp': True}
arms = dict(
    none=dict(note='no synthesis'),
    kept=dict(bases=['configs/_base_/synthesis/paste_poisson.py'], note='half real, a quarter pasted',
              overrides={'synthesis.ratio': dict(real=2, synthetic=1, clean=1)}))
