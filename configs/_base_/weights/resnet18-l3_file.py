# ImageNet weights of a ResNet-18 up to its third stage from a local file with torchvision's names, for machines without
# internet; the run prints what matched. To be laid over a leaf config, behind its default_runtime.py.
model = dict(backbone=dict(init_cfg=None))
custom_hooks = [
    dict(type='ClassCheckHook'),
    dict(type='CalibrationHook'),
    dict(type='SelectionCheckHook'),
    dict(type='CutPasteBackboneHook', checkpoint='weights/resnet18_imagenet_conv1-layer3_fp16.pth'),
]
