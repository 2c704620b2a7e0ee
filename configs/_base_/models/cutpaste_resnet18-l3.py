# ResNet-18 up to its third stage from ImageNet weights (torchvision names); stem and first two stages stay as they are.
_base_ = ['./cutpaste_resnet18.py']
model = dict(
    backbone=dict(
        num_stages=3,
        out_indices=(2,),
        strides=(1, 2, 2),
        dilations=(1, 1, 1),
        frozen_stages=2,
        norm_eval=True,
        init_cfg=dict(type='Pretrained', checkpoint='weights/resnet18_imagenet_conv1-layer3_fp16.pth'),
    )
)
