# DDRNet-23-slim (Pan et al., 2022).
_base_ = ['./two_branches.py']
model = dict(
    backbone=dict(
        type='DDRNet',
        ppm_channels=128,
        init_cfg=dict(
            checkpoint='https://download.openmmlab.com/mmsegmentation/v0.5/ddrnet/pretrain/'
            'ddrnet23s-in1kpre_3rdparty-1ccac5b1.pth'
        ),
    ),
    decode_head=dict(
        type='DDRHead',
        channels=64,
        dropout_ratio=0.0,
        loss_decode=[
            dict(type='OhemCrossEntropy', thres=0.9, min_kept=131072, loss_weight=1.0),
            dict(type='OhemCrossEntropy', thres=0.9, min_kept=131072, loss_weight=0.4),
        ],
    ),
)
