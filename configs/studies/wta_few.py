"""Ten photographs of a defect: what are pasted defects worth on the cutting inserts then?

Before it, the second command for the seeds N = 0, 1, 2:
    python tools/split_outer_val.py data/wta512 --layout wta
    python tools/split_fewer.py data/wta512/outer_splits.json --shots 5 --seed N
"""

_base_ = '_base_/wta_frozen.py'
name = 'wta_few'
title = 'Ten photographs of defects, with and without pasting them, on the cutting inserts'
text = ('The models of wta_models.py with ten defective training images, five with `attached` alone and five with `broken` too, '
        'other ones for each seed, and 86 clean ones; crop 256, batch 4, softmax focal loss with alpha .1 .3 .6, bfloat16, '
        'equal updates. `real`: every second draw is one of the ten. `kept`: half of the draws are the ten, a quarter clean '
        'pictures with their defects blended in, a quarter clean ones. `native`: pictures keep their 512 pixels and half of the '
        'crops are asked to show a defect. Chosen on validation, tested once; calibrated values use offsets fitted on '
        'validation.')
factor = dict(name='model and synthesis', keys=[
    'model*', '*synthesis*', '*sampler*', '*dataset*', '*custom_hooks*', 'image_scale*'])
metrics = [
    'cal_fg_mIoU', 'fg_AP', 'fg_mIoU', 'any_AP', 'AP.attached', 'AP.broken', 'tIoU.attached', 'tIoU.broken', 'AUPRO30',
    'cRecall', 'FA_per_image'
]
baseline = 'fpn_r18_real'

overrides = {'amp': True, 'train_dataloader.dataset.split_file': 'shots_5_{seed}.json', 'train_dataloader.dataset.split': 'train'}

_models, _weights = 'configs/_base_/models', 'configs/_base_/weights'
_settings = dict(
    fpn_r18=([f'{_weights}/resnet18-l3_file.py'], 'FPN, ResNet-18', 1),
    fpn_mobilenetv2=([f'{_models}/fpn_mobilenetv2_frozen.py', f'{_weights}/mobilenetv2_file.py'], 'FPN, MobileNetV2', 2),
    deeplabv3plus_r18=([f'{_models}/deeplabv3plus_r18-l3_frozen.py', f'{_weights}/resnet18-l3_file.py'],
                       'DeepLabV3+, ResNet-18', 2))
_half = dict(_delete_=True, type='MixingSampler', defective_share=0.5, shuffle=True)
arms, pairs = {}, {}
for _name, (_bases, _note, _priority) in _settings.items():
    arms[f'{_name}_real'] = dict(bases=_bases, overrides={'train_dataloader.sampler': _half}, priority=_priority,
                                 note=f'{_note}, the ten')
    arms[f'{_name}_kept'] = dict(
        bases=[*_bases, 'configs/_base_/synthesis/paste_poisson.py'], priority=_priority, note='and their defects pasted')
    pairs[_note] = [(f'{_name}_real', f'{_name}_kept')]
_r18 = [*_settings['fpn_r18'][0], 'configs/_base_/datasets/wta_512_crop256.py']
_batch = {'train_dataloader.batch_size': 4}
arms['fpn_r18_native_real'] = dict(
    bases=_r18, overrides={**_batch, 'train_dataloader.sampler': _half}, note='FPN, ResNet-18, the ten at full size')
arms['fpn_r18_native_kept'] = dict(
    bases=[*_r18, 'configs/_base_/synthesis/paste_poisson.py'], overrides=_batch, note='and their defects pasted')
pairs['FPN, ResNet-18, full size'] = [('fpn_r18_native_real', 'fpn_r18_native_kept')]
