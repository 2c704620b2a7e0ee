"""The loss ablation of the cutting-insert system (wta_losses.py) in minutes a run: magnetic tiles, a frozen backbone.

Before it the split that configs/_base_/datasets/tiles_160.py names.
"""

_base_ = '_base_/tiles_frozen.py'
name = 'tiles_losses'
title = 'Which loss? Magnetic tiles'
text = (
    'FPN on a frozen ResNet-18 without its fourth stage, ImageNet weights (`weights/`), on magnetic tiles with five '
    'types of defects, images and crops of 160, batch 4, bfloat16, one optimiser and learning rate for every loss, '
    'plain draws. The published ablation, one run a loss on inserts with 99.8 % background and a tenth of the '
    'learning rate for Tversky: focal 33.3 (gamma 2, alpha .1 .3 .6), Tversky 30.3, cross-entropy 23.7, focal + '
    'Tversky 22.7, Dice 22.3, Dice + cross-entropy 19.3 of foreground IoU by the largest score. Here that is '
    '`argmax_fg_mIoU`, and checkpoints are chosen by it on validation (there `fg_mIoU`); `cal_fg_mIoU`, the delivered '
    'decision, and `fg_AP` do not ask where a loss puts its threshold.'
)
factor = dict(name='loss', keys=['*loss_decode*'])
baseline = 'ce'
iterations = 400
selection = dict(metric='fg_mIoU', tie='last')
metrics = ['argmax_fg_mIoU', 'cal_fg_mIoU', 'fg_AP', 'any_AP', 'cRecall', 'FA_per_image']
stopping = 'no run after three seeds of every arm.'
decision = [
    dict(pair=('ce', 'focal_alpha'), metric='argmax_fg_mIoU', above=0.0),
    dict(pair=('ce', 'tversky'), metric='argmax_fg_mIoU', above=0.0),
    dict(pair=('dice_ce', 'focal_alpha'), metric='argmax_fg_mIoU', above=0.0),
    dict(pair=('ce', 'focal_alpha'), metric='fg_AP', above=0.0),
]

_losses = 'configs/_base_/losses'
_alpha = [0.1, 0.5, 0.5, 0.5, 0.5, 0.5]


def _focal(gamma, alpha=None, **more):
    note = f'gamma {gamma:g}, {"no alpha" if alpha is None else "alpha .1, .5 of each type"}'
    return dict(note=note, overrides={'loss_decode.gamma': gamma, 'loss_decode.alpha': alpha}, **more)


arms = dict(
    ce=dict(bases=[f'{_losses}/ce.py']),
    focal=_focal(2.0),
    focal_alpha=_focal(2.0, _alpha),
    **{
        name: dict(bases=[f'{_losses}/{name}.py'], priority=2)
        for name in ('dice', 'dice_ce', 'tversky', 'tversky_focal')
    },
    **{f'focal_g{gamma:g}'.replace('.', ''): _focal(gamma, priority=3) for gamma in (0.5, 1.0, 3.0, 4.0, 5.0)},
    focal_alpha_g5=_focal(5.0, _alpha, priority=3),
)
