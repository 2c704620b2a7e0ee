"""What each part of the recipe adds on the cutting inserts, from plain focal loss to the whole of it."""

name = 'wta_ladder'
title = 'Which part of the recipe helps?'
text = ('Fast-SCNN from random weights on the cutting inserts, crop 256, softmax focal loss with alpha .1 .3 .6 in '
        'every arm, equal updates. Every arm adds one thing to the one it is named after. Chosen on validation, tested '
        'once; calibrated values use offsets fitted on validation.')
base = 'configs/fast_scnn/fast-scnn_baseline_2k_wta-256.py'
factor = dict(name='recipe', keys=['*synthesis*', '*sampler*', '*dataset.pipeline*', '*custom_hooks*'])
iterations = 2000
val_interval = 200
seeds = [0, 1, 2, 3, 4]
selection = dict(metric='fg_mIoU', tie='last')
metrics = [
    'cal_fg_mIoU', 'fg_AP', 'fg_mIoU', 'AP.attached', 'AP.broken', 'tIoU.attached', 'tIoU.broken', 'cRecall',
    'FA_per_image'
]
baseline = 'focal'

_focal = 'configs/_base_/losses/focal_system5.py'
_synthesis = 'configs/_base_/synthesis'
_poisson = [_focal, f'{_synthesis}/paste_poisson.py']
_crop = 'train_dataloader.dataset.pipeline.3'
_policy = 'synthesis.transforms.0.policy'
arms = dict(
    focal=dict(bases=[_focal], note='no synthesis'),
    paste_poisson=dict(bases=_poisson, note='the recipe as it ships'),
    paste_alpha=dict(bases=[_focal, f'{_synthesis}/paste_alpha.py'], priority=2, note='no gradients imported'),
    cutpaste=dict(bases=[_focal, f'{_synthesis}/cutpaste.py'], priority=2, note='moved parts taught as `attached`'),
    class_aware=dict(bases=[_focal, 'configs/_base_/class_aware.py'], priority=2, note='rare classes drawn more often'),
    class_prior=dict(bases=[_focal, 'configs/_base_/class_prior.py'], priority=2,
                     note='heads start at class frequencies'),
    poisson_even=dict(bases=_poisson, priority=2, note='anywhere on the part',
                      overrides={f'{_policy}.places': dict(_delete_=True, even=1)}),
    poisson_fade=dict(bases=_poisson, priority=2, note='none in the last third',
                      overrides={'synthesis.fade': dict(begin=0.4, end=0.67)}),
    poisson_light=dict(bases=_poisson, priority=3, note='one defect in a sixth of the draws',
                       overrides={'synthesis.ratio': dict(real=3, synthetic=1, clean=2),
                                  f'{_policy}.number': dict(_delete_=True, **{'1': 1})}),
    poisson_balanced=dict(bases=_poisson, priority=3, note='as many pasted `broken` as `attached`',
                          overrides={f'{_policy}.class_shares': {'1': 1, '2': 1}}),
    poisson_crop=dict(bases=_poisson, priority=3, note='half of the crops hold a defect',
                      overrides={_crop: dict(type='DefectCrop', crop_size=(256, 256), probability=0.5)}))
