"""Ten photographs of a defect: what are pasted defects worth on the cutting inserts then?

Before it, the second command for the seeds N = 0, 1, 2:
    python tools/split_outer_val.py data/wta512 --layout wta
    python tools/split_fewer.py data/wta512/outer_splits.json --shots 5 --seed N
"""

_base_ = '_base_/wta_frozen.py'
name = 'wta_few'
title = 'Ten photographs of defects, with and without pasting them, on the cutting inserts'
text = (
    'FPN on a frozen ResNet-18 with ten defective training images, five with `attached` alone and five with `broken` '
    'too, other ones for each seed, and 86 clean ones; crop 256, batch 4, softmax focal loss with alpha .1 .3 .6, '
    'bfloat16, equal updates. `real`: every second draw is one of the ten. `kept`: half of the draws are the ten, a '
    'quarter clean images with their defects blended in, a quarter clean ones. `native`: images keep their 512 pixels '
    'and half of the crops are asked to show a defect. Chosen on validation, tested once; calibrated values use '
    'offsets fitted on validation.'
)
factor = dict(name='size of the images and synthesis', keys=['*synthesis*', '*sampler*', '*dataset*', 'image_scale*'])
metrics = [
    'cal_fg_mIoU',
    'fg_AP',
    'fg_mIoU',
    'any_AP',
    'AP.attached',
    'AP.broken',
    'tIoU.attached',
    'tIoU.broken',
    'AUPRO30',
    'cRecall',
    'FA_per_image',
]
baseline = 'fpn_r18_real'

overrides = {
    'amp': True,
    'train_dataloader.dataset.split_file': 'shots_5_{seed}.json',
    'train_dataloader.dataset.split': 'train',
}

_frozen, _pastes = ['configs/_base_/weights/resnet18-l3_file.py'], 'configs/_base_/synthesis/paste_poisson.py'
_native = [*_frozen, 'configs/_base_/datasets/wta_512_crop256.py']
_half = {'train_dataloader.sampler': dict(_delete_=True, type='MixingSampler', defective_share=0.5, shuffle=True)}
_batch = {'train_dataloader.batch_size': 4}
arms = dict(
    fpn_r18_real=dict(bases=_frozen, overrides=_half, note='FPN, ResNet-18, the ten'),
    fpn_r18_kept=dict(bases=[*_frozen, _pastes], note='and their defects pasted'),
    fpn_r18_native_real=dict(bases=_native, overrides={**_batch, **_half}, note='FPN, ResNet-18, the ten at full size'),
    fpn_r18_native_kept=dict(bases=[*_native, _pastes], overrides=_batch, note='and their defects pasted'),
)
pairs = {
    'FPN, ResNet-18': [('fpn_r18_real', 'fpn_r18_kept')],
    'FPN, ResNet-18, full size': [('fpn_r18_native_real', 'fpn_r18_native_kept')],
}
