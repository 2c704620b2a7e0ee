# UPerNet on BEiT-B.
_base_ = ['mmseg::_base_/models/upernet_beit.py']
model = dict(pretrained='pretrain/beit_base_patch16_224_pt22k_ft22k.pth')
own_optimizer = dict(
    optimizer=dict(type='AdamW', lr=3e-5, betas=(0.9, 0.999), weight_decay=0.05),
    constructor='LayerDecayOptimizerConstructor',
    paramwise_cfg=dict(num_layers=12, layer_decay_rate=0.9),
)
