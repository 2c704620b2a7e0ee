# FPN on ResNet-18 without its fourth stage, which small defects do not need: 2.9 M parameters, quick on a CPU. Starts
# from ImageNet; without the internet set `model.backbone.init_cfg.checkpoint` to a file with torchvision's names.
_base_ = ['./fpn_r18.py']
model = dict(
    backbone=dict(
        num_stages=3,
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        out_indices=(0, 1, 2),
        init_cfg=dict(type='Pretrained', checkpoint='torchvision://resnet18'),
    ),
    neck=dict(in_channels=[64, 128, 256], num_outs=3),
    decode_head=dict(in_channels=[64, 64, 64], in_index=[0, 1, 2], feature_strides=[4, 8, 16]),
)
