# As resnet18-l3_file.py for MobileNetV2; these weights want images from -1 to 1.
model = dict(data_preprocessor=dict(mean=[127.5] * 3, std=[127.5] * 3), backbone=dict(init_cfg=None))
custom_hooks = [
    dict(type='ClassCheckHook'),
    dict(type='CalibrationHook'),
    dict(type='SelectionCheckHook'),
    dict(type='CutPasteBackboneHook', checkpoint='weights/mobilenet_v2_1.0_imagenet_qat_fp16.pth'),
]
