# What DDRNet and PIDNet share: a branch of detail beside branches of context, joined by the head.
_base_ = ['./encoder_decoder.py']
norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    backbone=dict(in_channels=3, channels=32, norm_cfg=norm_cfg, align_corners=False, init_cfg=dict(type='Pretrained')),
    decode_head=dict(in_channels=128),
)
