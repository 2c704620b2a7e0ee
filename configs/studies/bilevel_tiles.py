"""Where to paste on magnetic tiles: nowhere, anywhere, on the object, where it was learned. Equal updates.

Before it, once for each seed N (0, 1, 2), after making the split that datasets/tiles_160.py names:
    python tools/train.py configs/bilevel/fpn-r18-l3-frozen_net_600_tiles-160.py --amp \
        --work-dir work_dirs/bilevel_tiles/N --cfg-options randomness.seed=N \
        model.backbone.init_cfg.checkpoint=weights/resnet18_imagenet_conv1-layer3_fp16.pth
For `learned_cg` and `learned_one_step` the same with `--with cg` and `--with one_step`, into
work_dirs/bilevel_tiles_cg/N and work_dirs/bilevel_tiles_one_step/N.
"""

_base_ = '_base_/tiles_frozen.py'
name = 'bilevel_tiles'
title = 'Learned places and weights on magnetic tiles'
text = (
    'FPN on a frozen ResNet-18 without its fourth stage, ImageNet weights (`weights/`), crop 160, batch 4, five types '
    'of defects, exposures of one tile on one side, on the training images without the outer-validation split, '
    'softmax focal loss, bfloat16. The learned arm trains with the recipe that a bi-level training of 600 updates '
    'with the same seed froze, whose weights are not used. `image` and `random` are `real_all` and `paste_all` of '
    'tiles_curve.py.'
)
factor = dict(name='synthesis', keys=['*pipeline*', '*sampler*', '*data_preprocessor*', '*dataset*'])
baseline = 'random'

_synthesis, _thirds = 'configs/_base_/synthesis', 'configs/studies/_base_/thirds.py'
_half = dict(_delete_=True, type='MixingSampler', defective_share=0.5, shuffle=True)
arms = dict(
    image=dict(overrides={'train_dataloader.sampler': _half}, note='image-level augmentation only'),
    random=dict(bases=[f'{_synthesis}/paste_anywhere.py', _thirds], note='anywhere in the frame'),
    object=dict(bases=[f'{_synthesis}/paste_on_object.py', _thirds], note='anywhere on the object'),
    learned=dict(
        bases=['work_dirs/bilevel_tiles/{seed}/policy/recipe.py'], note='learned places and weights, Neumann-3'
    ),
    learned_cg=dict(
        bases=['work_dirs/bilevel_tiles_cg/{seed}/policy/recipe.py'], priority=2, note='conjugate gradient'
    ),
    learned_one_step=dict(
        bases=['work_dirs/bilevel_tiles_one_step/{seed}/policy/recipe.py'],
        priority=2,
        note='one step, twice the outer steps',
    ),
)
