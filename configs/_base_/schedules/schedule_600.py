# Short training from ImageNet weights; for batches of 4.
_base_ = ['./schedule_2k.py']
optim_wrapper = dict(optimizer=dict(lr=0.0005))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=50, by_epoch=False),
    dict(type='PolyLR', eta_min=1e-5, power=0.9, begin=50, end=600, by_epoch=False),
]
train_cfg = dict(max_iters=600, val_interval=100)
default_hooks = dict(checkpoint=dict(interval=100))
