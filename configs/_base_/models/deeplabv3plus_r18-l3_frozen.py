# As fpn_r18-l3_frozen.py with the larger head of DeepLabV3+: dilated convolutions over the third stage, joined with the
# first.
_base_ = ['./fpn_r18-l3_frozen.py']
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    neck=None,
    decode_head=dict(
        _delete_=True,
        type='DepthwiseSeparableASPPHead',
        in_channels=256,
        in_index=2,
        channels=256,
        dilations=(1, 3, 6, 9),
        c1_in_channels=64,
        c1_channels=48,
        dropout_ratio=0.1,
        num_classes=19,
        norm_cfg=norm_cfg,
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0),
    ),
    auxiliary_head=dict(in_channels=256),
)
