# As fpn_r18-l3_frozen.py on MobileNetV2, whose last stage learns (mmseg freezes the first six at most). Without the
# internet, CutPasteBackboneHook loads a file with torchvision's names.
_base_ = ['./fpn_r18.py']
model = dict(
    backbone=dict(
        _delete_=True,
        type='MobileNetV2',
        out_indices=(1, 2, 4, 6),
        frozen_stages=6,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='mmcls://mobilenet_v2'),
    ),
    neck=dict(in_channels=[24, 32, 96, 320]),
)
