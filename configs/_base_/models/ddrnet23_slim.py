# DDRNet-23-slim (Pan et al., 2022).
norm_cfg = dict(type='SyncBN', requires_grad=True)
data_preprocessor = dict(
    type='SegDataPreProcessor',
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
    pad_val=0,
    seg_pad_val=255,
)
model = dict(
    type='EncoderDecoder',
    data_preprocessor=data_preprocessor,
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
    train_cfg=dict(),
    test_cfg=dict(mode='whole'),
)
