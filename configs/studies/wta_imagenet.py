"""Does the recipe help a network fine-tuned from ImageNet? wta_ladder.py takes it apart, on a frozen backbone."""

_base_ = '_base_/wta_frozen.py'
name = 'wta_imagenet'
title = 'The recipe on ImageNet weights'
text = (
    'FPN on a ResNet-18 without its fourth stage, from ImageNet weights (`weights/`, 100 % of the backbone matched), '
    'on the cutting inserts, crop 256, batch 4, softmax focal loss with alpha .1 .3 .6 in every arm, equal updates. '
    'Chosen on validation, tested once; calibrated values use offsets fitted on validation.'
)
base = 'configs/fpn/fpn-r18-l3_baseline_600_wta-256.py'
factor = dict(name='recipe', keys=['*synthesis*', '*sampler*', '*dataset*', '*custom_hooks*'])
iterations = 400
val_interval = 100
overrides = {}
baseline = 'focal'
bases = ['configs/_base_/weights/resnet18-l3_file.py']
arms = dict(
    focal=dict(note='no synthesis'),
    paste_poisson=dict(
        bases=['configs/_base_/synthesis/paste_poisson.py', 'configs/studies/_base_/thirds.py'],
        note='defects pasted in a third of the draws',
    ),
)
