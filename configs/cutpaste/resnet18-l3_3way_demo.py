# The rendered demo set (tools/make_demo_data.py), from random weights: minutes on a CPU.
_base_ = [
    '../_base_/models/cutpaste_resnet18-l3.py',
    '../_base_/datasets/good_256.py',
    '../_base_/schedules/cutpaste_256.py',
    '../_base_/cutpaste_runtime.py',
]
data_root = 'data/demo/mvtec'
category = 'carpet'
image_scale = (128, 128)
model = dict(backbone=dict(frozen_stages=-1, norm_eval=False, init_cfg=None))
custom_hooks = []
train_cfg = dict(max_iters=32, val_interval=16)
param_scheduler = [dict(type='CosineAnnealingLR', T_max=32, eta_min=0, begin=0, end=32, by_epoch=False)]
train_dataloader = dict(batch_size=4)
default_hooks = dict(checkpoint=dict(interval=16))
