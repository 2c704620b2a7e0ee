"""The loss ablation of the cutting-insert system, with one optimiser and one learning rate for all."""

_base_ = '_base_/wta_fast-scnn.py'
name = 'losses'
title = 'Which loss survives 99.8 % background?'
text = (
    'Fast-SCNN from random weights on the cutting inserts, crop 256, AdamW 1e-3 for every loss (the published '
    'ablation gave some losses a tenth of the learning rate of the others). Arms of priority 1 answer '
    'cross-entropy against focal.'
)
factor = dict(name='loss', keys=['*loss_decode*'])
baseline = 'ce'

_losses = 'configs/_base_/losses'
_focal = [f'{_losses}/focal.py']
arms = dict(
    ce=dict(bases=[f'{_losses}/ce.py']),
    focal=dict(bases=_focal, note='gamma 2, no alpha', overrides={'loss_decode.gamma': 2.0, 'loss_decode.alpha': None}),
    focal_alpha=dict(bases=[f'{_losses}/focal_published.py'], note='gamma 2, alpha .1 .3 .6'),
    dice=dict(bases=[f'{_losses}/dice.py'], priority=2),
    dice_ce=dict(bases=[f'{_losses}/dice_ce.py'], priority=2),
    tversky=dict(bases=[f'{_losses}/tversky.py'], priority=2),
    tversky_focal=dict(bases=[f'{_losses}/tversky_focal.py'], priority=2),
    **{
        f'focal_g{str(gamma).replace(".0", "").replace(".", "")}': dict(
            bases=_focal,
            priority=3,
            note=f'gamma {gamma}, no alpha',
            overrides={'loss_decode.gamma': gamma, 'loss_decode.alpha': None},
        )
        for gamma in (0.5, 1.0, 3.0, 4.0, 5.0)
    },
    focal_alpha_g5=dict(
        bases=[f'{_losses}/focal_published.py'],
        priority=3,
        note='gamma 5, alpha .1 .3 .6',
        overrides={'loss_decode.gamma': 5.0},
    ),
)
