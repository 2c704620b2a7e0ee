# PIDNet-S (Xu et al., CVPR 2023). The third loss is that of its edge branch; the others are the segmentation losses.
_base_ = ['./two_branches.py']
model = dict(
    backbone=dict(
        type='PIDNet',
        ppm_channels=96,
        num_stem_blocks=2,
        num_branch_blocks=3,
        act_cfg=dict(type='ReLU', inplace=True),
        init_cfg=dict(
            checkpoint='https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/pidnet/'
            'pidnet-s_imagenet1k_20230306-715e6273.pth'
        ),
    ),
    decode_head=dict(
        type='PIDHead',
        channels=128,
        act_cfg=dict(type='ReLU', inplace=True),
        align_corners=True,
        loss_decode=[
            dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=0.4),
            dict(type='OhemCrossEntropy', thres=0.9, min_kept=131072, loss_weight=1.0),
            dict(type='BoundaryLoss', loss_weight=20.0),
            dict(type='OhemCrossEntropy', thres=0.9, min_kept=131072, loss_weight=1.0),
        ],
    ),
)
own_transforms = [dict(type='GenerateEdge', edge_width=4)]
