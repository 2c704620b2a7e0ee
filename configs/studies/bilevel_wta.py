"""Where to paste on the cutting inserts: nowhere, anywhere, on the object, where it was learned. Equal updates.

Before it, once for each seed N (0, 1, 2):
    python tools/split_outer_val.py data/wta512 --layout wta
    python tools/train.py configs/bilevel/fpn-r18-l3-frozen_maps_400_wta-256.py --amp \
        --work-dir work_dirs/bilevel_wta/N --cfg-options randomness.seed=N \
        model.backbone.init_cfg.checkpoint=weights/resnet18_imagenet_conv1-layer3_fp16.pth
For `learned_cg` the same with `--with cg`, into work_dirs/bilevel_wta_cg/N; for `learned_one_step` the same with
maps-one-step_450 in place of maps_400, into work_dirs/bilevel_wta_one_step/N.
"""

_base_ = '_base_/wta_frozen.py'
name = 'bilevel_wta'
title = 'Learned places and weights on the cutting inserts'
text = (
    'FPN on a frozen ResNet-18 without its fourth stage, ImageNet weights (`weights/`), crop 256, batch 4, softmax '
    'focal loss with alpha .1 .3 .6, bfloat16. The learned arm trains with the recipe that a bi-level training of 400 '
    'updates with the same seed froze, whose weights are not used; that training took a quarter of the training images '
    'as its outer-validation split, and then all four arms train on all of them.'
)
factor = dict(name='synthesis', keys=['*pipeline*', '*sampler*', '*data_preprocessor*', '*dataset*'])
baseline = 'random'
bases = ['configs/_base_/weights/resnet18-l3_file.py']

_synthesis, _thirds = 'configs/_base_/synthesis', 'configs/studies/_base_/thirds.py'
arms = dict(
    image=dict(note='image-level augmentation only'),
    random=dict(bases=[f'{_synthesis}/paste_anywhere.py', _thirds], note='anywhere in the frame'),
    object=dict(bases=[f'{_synthesis}/paste_on_object.py', _thirds], note='anywhere on the object'),
    learned=dict(bases=['work_dirs/bilevel_wta/{seed}/policy/recipe.py'], note='learned places and weights, Neumann-3'),
    learned_cg=dict(bases=['work_dirs/bilevel_wta_cg/{seed}/policy/recipe.py'], priority=2, note='conjugate gradient'),
    learned_one_step=dict(
        bases=['work_dirs/bilevel_wta_one_step/{seed}/policy/recipe.py'],
        priority=2,
        note='one step, 2.5 times the outer steps',
    ),
)
