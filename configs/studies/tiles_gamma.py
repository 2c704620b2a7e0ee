"""The gamma study of the cutting-insert system, gamma .5 to 5 with its alpha, on magnetic tiles as tiles_losses.py."""

_base_ = 'tiles_losses.py'
name = 'tiles_gamma'
title = 'Which gamma of the focal loss? Magnetic tiles'
text = (
    'As [tiles_losses](tiles_losses.md): FPN on a frozen ResNet-18, magnetic tiles, 160 pixels. The published series '
    'tried gamma .5 to 5 with one alpha for all and went on with 2. Alpha here is .1 for normal and .5 for each type. '
    '`g2` and `g5` are `focal_alpha` and `focal_alpha_g5` of that study, `ce` is its `ce`.'
)
baseline = 'g2'
stopping = 'no run after three seeds of every arm.'
decision = [
    dict(pair=(arm, 'g2'), metric=metric, above=0.0)
    for metric in ('argmax_fg_mIoU', 'fg_AP')
    for arm in ('ce', 'g05', 'g1', 'g3', 'g4', 'g5')
]
_alpha = [0.1, 0.5, 0.5, 0.5, 0.5, 0.5]
arms = dict(
    ce=dict(bases=['configs/_base_/losses/ce.py']),
    **{
        f'g{gamma:g}'.replace('.', ''): dict(
            note=f'gamma {gamma:g}, alpha .1, .5 of each type',
            priority=1 if gamma == 2.0 else 2,
            overrides={'loss_decode.gamma': gamma, 'loss_decode.alpha': _alpha},
        )
        for gamma in (0.5, 1.0, 2.0, 3.0, 4.0, 5.0)
    },
)
