# SegFormer-B0, from ImageNet weights.
_base_ = ['mmseg::_base_/models/segformer_mit-b0.py', './segformer_optimizer.py']
model = dict(
    backbone=dict(
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://download.openmmlab.com/mmsegmentation/v0.5/pretrain/segformer/mit_b0_20220624-7e0fe6dd.pth',
        )
    )
)
