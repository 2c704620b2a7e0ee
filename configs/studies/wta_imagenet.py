"""Which part of the recipe helps a network that starts from ImageNet?"""

name = 'wta_imagenet'
title = 'The recipe on ImageNet weights'
text = ('FPN on a ResNet-18 without its fourth stage, from ImageNet weights (`weights/`, 100 % of the backbone matched), on '
        'the cutting inserts, crop 256, batch 4, softmax focal loss with alpha .1 .3 .6 in every arm, equal updates. Every '
        'arm adds one thing to `focal`; `relabelled` and `copied` are those of wta_generated.py. Chosen on validation, '
        'tested once; calibrated values use offsets fitted on validation.')
base = 'configs/fpn/fpn-r18-l3_baseline_600_wta-256.py'
factor = dict(name='recipe', keys=['*synthesis*', '*sampler*', '*dataset*', '*custom_hooks*'])
iterations = 400
val_interval = 100
seeds = [0, 1, 2]
selection = dict(metric='cal_fg_mIoU', tie='last')
metrics = [
    'cal_fg_mIoU', 'fg_AP', 'fg_mIoU', 'AP.attached', 'AP.broken', 'tIoU.attached', 'tIoU.broken', 'cRecall',
    'FA_per_image'
]
baseline = 'focal'
overrides = {'model.backbone.init_cfg': None}

_hooks = [
    dict(type='ClassCheckHook'), dict(type='CalibrationHook'), dict(type='SelectionCheckHook'),
    dict(type='CutPasteBackboneHook', checkpoint='weights/resnet18_imagenet_conv1-layer3_fp16.pth')
]
overrides['custom_hooks'] = _hooks
_synthesis = 'configs/_base_/synthesis'
_generated = 'configs/_base_/datasets/generated.py'
_poisson = [f'{_synthesis}/paste_poisson.py']
_policy = 'synthesis.transforms.0.policy'
arms = dict(
    focal=dict(note='no synthesis'),
    paste_poisson=dict(bases=_poisson, note='the recipe as it ships'),
    relabelled=dict(bases=[_generated], overrides={'generated.folder': 'data/generated/wta/relabelled'}, priority=2,
                    note='accepted edits, new labels'),
    copied=dict(bases=[_generated], overrides={'generated.folder': 'data/generated/wta/copied'}, priority=2,
                note='all edits, labels of the sources'),
    poisson_light=dict(bases=_poisson, priority=3, note='one defect in a sixth of the draws',
                       overrides={'synthesis.ratio': dict(real=3, synthetic=1, clean=2),
                                  f'{_policy}.number': dict(_delete_=True, **{'1': 1})}),
    poisson_fade=dict(bases=_poisson, priority=3, note='none in the last third',
                      overrides={'synthesis.fade': dict(begin=0.4, end=0.67)}),
    paste_alpha=dict(bases=[f'{_synthesis}/paste_alpha.py'], priority=3, note='no gradients imported'),
    cutpaste=dict(bases=[f'{_synthesis}/cutpaste.py'], priority=3, note='moved parts taught as `attached`'),
    class_aware=dict(bases=['configs/_base_/class_aware.py'], priority=3, note='rare classes drawn more often'),
    poisson_even=dict(bases=_poisson, priority=3, note='anywhere on the part',
                      overrides={f'{_policy}.places': dict(_delete_=True, even=1)}))
