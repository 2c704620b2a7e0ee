"""What each part of the recipe adds on the cutting inserts, from plain focal loss to the whole of it.

The arm `learned` needs the recipes of bilevel_wta.py, `relabelled` and `copied` the sets of wta_generated.py.
"""

_base_ = '_base_/wta_frozen.py'
name = 'wta_ladder'
title = 'Which part of the recipe helps?'
text = (
    'FPN on a frozen ResNet-18 without its fourth stage, ImageNet weights (`weights/`, 100 % of the backbone '
    'matched), on the cutting inserts, crop 256, batch 4, softmax focal loss with alpha .1 .3 .6 in every arm, '
    'bfloat16, equal updates. Every arm adds one thing to the one it is named after. Chosen on validation, tested '
    'once; calibrated values use offsets fitted on validation.'
)
factor = dict(name='recipe', keys=['*synthesis*', '*sampler*', '*dataset*', '*custom_hooks*', '*data_preprocessor*'])
baseline = 'focal'
bases = ['configs/_base_/weights/resnet18-l3_file.py']

_synthesis = 'configs/_base_/synthesis'
_generated = 'configs/_base_/datasets/generated.py'
_thirds = 'configs/studies/_base_/thirds.py'
_poisson = [f'{_synthesis}/paste_poisson.py', _thirds]
_policy = 'synthesis.transforms.0.policy'
arms = dict(
    focal=dict(note='no synthesis'),
    paste_poisson=dict(bases=_poisson, note='a third of the draws pasted'),
    poisson_half_real=dict(bases=_poisson[:1], note='a quarter pasted: the recipe as it ships'),
    paste_anywhere=dict(bases=[f'{_synthesis}/paste_anywhere.py', _thirds], note='anywhere in the frame'),
    learned=dict(bases=['work_dirs/bilevel_wta/{seed}/policy/recipe.py'], note='learned places and weights'),
    poisson_light=dict(
        bases=_poisson,
        priority=2,
        note='one defect in a sixth of the draws',
        overrides={
            'synthesis.ratio': dict(real=3, synthetic=1, clean=2),
            f'{_policy}.number': dict(_delete_=True, **{'1': 1}),
        },
    ),
    poisson_fade=dict(
        bases=_poisson,
        priority=2,
        note='none in the last third',
        overrides={'synthesis.fade': dict(begin=0.4, end=0.67)},
    ),
    paste_alpha=dict(bases=[f'{_synthesis}/paste_alpha.py', _thirds], priority=2, note='no gradients imported'),
    paste_on_object=dict(bases=[f'{_synthesis}/paste_on_object.py', _thirds], priority=2, note='anywhere on the part'),
    cutpaste=dict(bases=[f'{_synthesis}/cutpaste.py', _thirds], priority=3, note='moved parts taught as `attached`'),
    class_aware=dict(bases=['configs/_base_/class_aware.py'], priority=3, note='rare classes drawn more often'),
    class_prior=dict(bases=['configs/_base_/class_prior.py'], priority=3, note='heads start at class frequencies'),
    poisson_balanced=dict(
        bases=_poisson,
        priority=3,
        note='as many pasted `broken` as `attached`',
        overrides={f'{_policy}.class_shares': {'1': 1, '2': 1}},
    ),
    poisson_crop=dict(
        bases=_poisson,
        priority=3,
        note='half of the crops hold a defect',
        overrides={
            'train_dataloader.dataset.pipeline.3': dict(type='DefectCrop', crop_size=(256, 256), probability=0.5)
        },
    ),
    relabelled=dict(
        bases=[_generated],
        overrides={'generated.folder': 'data/generated/wta/relabelled'},
        priority=3,
        note='accepted edits, new labels',
    ),
    copied=dict(
        bases=[_generated],
        overrides={'generated.folder': 'data/generated/wta/copied'},
        priority=3,
        note='all edits, labels of the sources',
    ),
)
