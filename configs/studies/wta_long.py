"""Does the recommended recipe still help when a model trains three times as long?"""

_base_ = '_base_/wta_frozen.py'
name = 'wta_long'
title = 'Three times the updates, with and without pasted defects on the cutting inserts'
text = ('FPN on a frozen ResNet-18 without its fourth stage, ImageNet weights (`weights/`), as in wta_models.py but 1,500 updates. '
        '`kept`: half of the draws are real pictures, a quarter clean ones with real defects blended in, a quarter clean '
        'ones. Chosen on validation, tested once; calibrated values use offsets fitted on validation.')
factor = dict(name='synthesis', keys=['*synthesis*', '*sampler*', '*dataset*', '*custom_hooks*'])
iterations = 1500
baseline = 'none'
bases = ['configs/_base_/weights/resnet18-l3_file.py']
arms = dict(
    none=dict(note='no synthesis'),
    kept=dict(bases=['configs/_base_/synthesis/paste_poisson.py'], note='half real, a quarter pasted',
              overrides={'synthesis.ratio': dict(real=2, synthetic=1, clean=1)}))
