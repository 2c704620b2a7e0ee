"""Does synthesis need a focal loss? Two losses, with and without pasted defects."""

_base_ = '_base_/wta_fast-scnn.py'
name = 'wta_interaction'
title = 'Loss and synthesis together'
text = (
    'The published system found that synthetic images made most networks worse under cross-entropy and better '
    'under a focal loss. Fast-SCNN from random weights, crop 256, equal updates; the four arms differ in loss and '
    'recipe only.'
)
factor = dict(name='loss and recipe', keys=['*loss_decode*', '*synthesis*', '*sampler*', '*dataset.pipeline*'])
metrics = ['fg_mIoU', 'cal_fg_mIoU', 'fg_AP', 'IoU.attached', 'IoU.broken', 'cRecall', 'FA_per_image']
baseline = 'ce'

_losses = 'configs/_base_/losses'
_paste = ['configs/_base_/synthesis/paste_poisson.py', 'configs/studies/_base_/thirds.py']
arms = dict(
    ce=dict(bases=[f'{_losses}/ce.py'], note='no synthesis'),
    focal=dict(bases=[f'{_losses}/focal_published.py'], note='no synthesis'),
    ce_paste=dict(bases=[f'{_losses}/ce.py', *_paste], note='pasted defects'),
    focal_paste=dict(bases=[f'{_losses}/focal_published.py', *_paste], note='pasted defects'),
)
