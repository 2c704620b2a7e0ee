# UPerNet on ViT-B.
_base_ = ['mmseg::_base_/models/upernet_vit-b16_ln_mln.py']
model = dict(pretrained='pretrain/vit_base_patch16_224.pth')
own_optimizer = dict(
    optimizer=dict(type='AdamW', lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg=dict(
        custom_keys=dict(pos_embed=dict(decay_mult=0.0), cls_token=dict(decay_mult=0.0), norm=dict(decay_mult=0.0))
    ),
)
