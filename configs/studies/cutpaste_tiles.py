"""Does a backbone that CutPaste trained help segmentation? FPN on ResNet-18 up to its third stage, magnetic tiles, short.

Before it, after making the split that the base config names:
    python tools/train.py configs/cutpaste/resnet18-l3_3way-patch64_tiles-160.py --work-dir work_dirs/cutpaste_tiles
"""

name = 'cutpaste_tiles'
title = 'A CutPaste backbone on magnetic tiles'
text = ('FPN on a ResNet-18 without its fourth stage, crop 128, five types of defects, exposures of one tile on one side, '
        'the same 256 updates of 4 images with weighted cross-entropy for all arms, one validation at the end. The ImageNet weights are those that CutPaste started from; CutPaste '
        'saw the clean tiles of the training split alone, for 256 updates with stem and two stages fixed. Both come in '
        'through CutPasteBackboneHook, which matched 100 % of the backbone. One CutPaste training for all seeds.')
base = 'configs/bilevel/fpn-r18_baseline_2k_tiles-160.py'
factor = dict(name='initialisation', keys=['*custom_hooks*'])
iterations = 256
val_interval = 256
seeds = [0, 1, 2]
selection = dict(metric='fg_AP', tie='last')
metrics = ['fg_AP', 'fg_mIoU', 'cal_fg_mIoU', 'fg_mAcc', 'cRecall', 'FA_per_image']
baseline = 'random'
overrides = {
    'model.backbone.num_stages': 3,
    'model.backbone.strides': [1, 2, 2],
    'model.backbone.dilations': [1, 1, 1],
    'model.backbone.out_indices': [0, 1, 2],
    'model.neck.in_channels': [64, 128, 256],
    'model.neck.num_outs': 3,
    'model.decode_head.in_channels': [64, 64, 64],
    'model.decode_head.in_index': [0, 1, 2],
    'model.decode_head.feature_strides': [4, 8, 16],
    'crop_size': [128, 128],
    'image_scale': [128, 128],
    'train_dataloader.batch_size': 4,
    'optim_wrapper.optimizer.lr': 0.0005,
    'class_weight': [0.1, 1.0, 1.0, 1.0, 1.0, 1.0],
    'default_hooks.logger.interval': 20,
}
_runtime_hooks = [dict(type='ClassCheckHook'), dict(type='CalibrationHook'), dict(type='SelectionCheckHook')]
_imagenet = 'weights/resnet18_imagenet_conv1-layer3_fp16.pth'
_cutpaste = 'work_dirs/cutpaste_tiles/iter_256.pth'
_ce = ['configs/_base_/losses/ce.py']
arms = {
    'random': dict(bases=_ce, note='random weights'),
    'cutpaste': dict(
        bases=_ce, overrides={'custom_hooks': [*_runtime_hooks, dict(type='CutPasteBackboneHook', checkpoint=_cutpaste)]},
        note='ImageNet, then CutPaste on clean training tiles'),
    'imagenet': dict(
        bases=_ce, overrides={'custom_hooks': [*_runtime_hooks, dict(type='CutPasteBackboneHook', checkpoint=_imagenet)]},
        note='ImageNet')}
