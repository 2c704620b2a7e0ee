"""Where to paste on magnetic tiles: nowhere, anywhere, on the object, where it was learned. Equal updates.

Before it, once for each seed N (0, 1, 2), after making the split that the base config names:
    python tools/train.py configs/bilevel/fast-scnn_net_2k_tiles-160.py --work-dir work_dirs/bilevel_tiles/N \
        --cfg-options randomness.seed=N
"""

name = 'bilevel_tiles'
title = 'Learned places and weights on magnetic tiles'
text = ('Fast-SCNN from random weights, crop 160, five types of defects, exposures of one tile on one side, on the '
        'training images without the outer-validation split. The learned arm trains with the recipe that a bi-level '
        'training of the same seed froze; learning it took another run of the same length, whose weights are not used.')
base = 'configs/bilevel/fast-scnn_baseline_2k_tiles-160.py'
factor = dict(name='synthesis', keys=['*pipeline*', '*sampler*', '*data_preprocessor*'])
iterations = 2000
val_interval = 200
seeds = [0, 1, 2]
selection = dict(metric='fg_mIoU', tie='last')
metrics = ['fg_mIoU', 'cal_fg_mIoU', 'fg_AP', 'fg_mAcc', 'cRecall', 'FA_per_image']
baseline = 'random'

_synthesis = 'configs/_base_/synthesis'
arms = dict(
    image=dict(note='image-level augmentation only'),
    random=dict(bases=[f'{_synthesis}/paste_anywhere.py'], note='anywhere in the frame'),
    object=dict(bases=[f'{_synthesis}/paste_on_object.py'], note='anywhere on the object'),
    learned=dict(bases=['work_dirs/bilevel_tiles/{seed}/policy/recipe.py'], note='learned places and weights'))
