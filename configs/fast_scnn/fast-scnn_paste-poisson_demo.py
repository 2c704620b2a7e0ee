_base_ = [
    '../_base_/models/fast_scnn.py',
    '../_base_/datasets/demo_wta_256.py',
    '../_base_/losses/tversky_focal.py',
    '../_base_/synthesis/paste_poisson.py',
    '../_base_/class_prior.py',
    '../_base_/schedules/schedule_2k.py',
    '../_base_/default_runtime.py',
]
image_scale = (384, 384)
train_cfg = dict(max_iters=300, val_interval=100)
optim_wrapper = dict(optimizer=dict(lr=0.002))
param_scheduler = [dict(type='PolyLR', eta_min=1e-5, power=0.9, begin=0, end=300, by_epoch=False)]
default_hooks = dict(checkpoint=dict(interval=100))
