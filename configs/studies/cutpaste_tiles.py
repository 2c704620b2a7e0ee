"""Does a backbone that CutPaste trained help segmentation? FPN on ResNet-18 up to its third stage, magnetic tiles.

Before it, after making the split that datasets/tiles_160.py names:
    python tools/train.py configs/cutpaste/resnet18-l3_3way-patch64_tiles-160.py --work-dir work_dirs/cutpaste_tiles
"""

name = 'cutpaste_tiles'
title = 'A CutPaste backbone on magnetic tiles'
text = (
    'FPN on a ResNet-18 without its fourth stage, all of it trained, crop 160, batch 4, five types of defects, '
    'exposures of one tile on one side, softmax focal loss, bfloat16, the same updates for all arms. The ImageNet '
    'weights are those that CutPaste started from; CutPaste saw the clean tiles of the training split alone, for 256 '
    'updates with stem and two stages fixed. Both come in through CutPasteBackboneHook, which matched 100 % of the '
    'backbone. One CutPaste training for all seeds. Chosen on validation, tested once.'
)
base = 'configs/fpn/fpn-r18-l3_baseline_600_tiles-160.py'
factor = dict(name='initialisation', keys=['*custom_hooks*'])
iterations = 400
val_interval = 200
seeds = [0, 1, 2]
selection = dict(metric='cal_fg_mIoU', tie='last')
metrics = ['cal_fg_mIoU', 'fg_AP', 'fg_mIoU', 'cal_any_IoU', 'cRecall', 'FA_per_image']
baseline = 'random'
overrides = {
    'amp': True,
    'model.backbone.init_cfg': None,
    'train_dataloader.sampler': dict(_delete_=True, type='MixingSampler', defective_share=0.5, shuffle=True),
}
_runtime_hooks = [dict(type='ClassCheckHook'), dict(type='CalibrationHook'), dict(type='SelectionCheckHook')]
_cutpaste = dict(type='CutPasteBackboneHook', checkpoint='work_dirs/cutpaste_tiles/iter_256.pth')
arms = dict(
    random=dict(note='random weights'),
    cutpaste=dict(
        overrides={'custom_hooks': [*_runtime_hooks, _cutpaste]}, note='ImageNet, then CutPaste on clean training tiles'
    ),
    imagenet=dict(bases=['configs/_base_/weights/resnet18-l3_file.py'], note='ImageNet'),
)
