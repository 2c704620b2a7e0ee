"""Does synthesis help cross-entropy less than focal loss? Both with and without pasted defects on magnetic tiles."""

_base_ = '_base_/tiles_frozen.py'
name = 'tiles_interaction'
title = 'Loss and synthesis together'
text = (
    'FPN on a frozen ResNet-18 without its fourth stage, ImageNet weights (`weights/`), on magnetic tiles with five '
    'types of defects, crop 160, batch 4, bfloat16, equal updates, every second draw without synthesis a defective '
    'image. The published series found that cross-entropy loses by synthesised images and focal loss wins. `focal` '
    'and `focal_paste` are `real_all` and `paste_all` of tiles_curve.py. Chosen on validation, tested once.'
)
factor = dict(name='loss and synthesis', keys=['*loss_decode*', '*synthesis*', '*sampler*', '*dataset*'])
baseline = 'ce'
pairs = [('ce', 'ce_paste'), ('focal', 'focal_paste')]
_ce = 'configs/_base_/losses/ce.py'
_paste = ['configs/_base_/synthesis/paste_anywhere.py', 'configs/studies/_base_/thirds.py']
_half = {'train_dataloader.sampler': dict(_delete_=True, type='MixingSampler', defective_share=0.5, shuffle=True)}
arms = dict(
    ce=dict(bases=[_ce], overrides=_half, note='cross-entropy'),
    ce_paste=dict(bases=[_ce, *_paste], note='and pasted defects'),
    focal=dict(overrides=_half, note='softmax focal loss'),
    focal_paste=dict(bases=_paste, note='and pasted defects'),
)
