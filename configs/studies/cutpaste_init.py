"""Does a backbone that CutPaste trained help segmentation? BiSeNetV1-R18 on the cutting inserts, crop 192, short."""

name = 'cutpaste_init'
title = 'A CutPaste backbone against random weights'
text = (
    'BiSeNetV1 with a ResNet-18 context path (a plain 7x7 stem, as the CutPaste backbone has) on the cutting inserts, '
    'the same schedule for both arms. The backbone was trained on the clean images of the training split alone: '
    '`python tools/train.py configs/cutpaste/resnet18_3way-scratch_256_wta-256.py --work-dir work_dirs/cutpaste_wta`. '
    'CutPasteBackboneHook loads it; BiSeNetV1 has a spatial path and heads beside it, so its share is lower than 90 %.'
)
base = 'configs/bisenetv1/bisenetv1-r18_baseline_40k_wta-256.py'
factor = dict(name='initialisation', keys=['*custom_hooks*'])
iterations = 600
val_interval = 100
seeds = [0, 1, 2]
selection = dict(metric='fg_mIoU', tie='last')
metrics = ['fg_mIoU', 'fg_AP', 'fg_mAcc', 'IoU.attached', 'IoU.broken', 'mIoU']
baseline = 'random'
overrides = {
    'model.backbone.backbone_cfg.type': 'ResNet',
    'model.backbone.backbone_cfg.init_cfg': None,
    'model.backbone.init_cfg': None,
    'crop_size': [192, 192],
    'image_scale': [256, 256],
    'train_dataloader.batch_size': 4,
    'bn_momentum': 0.1,
    'class_weight': [0.05, 1.0, 1.0],
    'default_hooks.logger.interval': 20,
}
_runtime_hooks = [dict(type='ClassCheckHook'), dict(type='CalibrationHook'), dict(type='SelectionCheckHook')]
_load = dict(type='CutPasteBackboneHook', checkpoint='work_dirs/cutpaste_wta/iter_256.pth', min_share=0.6)
arms = dict(
    random={}, cutpaste=dict(overrides={'custom_hooks': [*_runtime_hooks, _load]}, note='through CutPasteBackboneHook')
)
