# DDRNet-23-slim (Pan et al., 2022).
_base_ = ['./encoder_decoder.py']
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    backbone=dict(
        type='DDRNet',
        in_channels=3,
        channels=32,
        ppm_channels=128,
        norm_cfg=norm_cfg,
        align_corners=False,
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://download.openmmlab.com/mmsegmentation/v0.5/ddrnet/pretrain/'
            'ddrnet23s-in1kpre_3rdparty-1ccac5b1.pth',
        ),
    ),
    decode_head=dict(
        type='DDRHead',
        in_channels=128,
        channels=64,
        dropout_ratio=0.0,
        num_classes=2,
        align_corners=False,
        norm_cfg=norm_cfg,
        loss_decode=[
            dict(type='OhemCrossEntropy', thres=0.9, min_kept=131072, loss_weight=1.0),
            dict(type='OhemCrossEntropy', thres=0.9, min_kept=131072, loss_weight=0.4),
        ],
    ),
)
