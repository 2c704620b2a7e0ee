# For two CPU cores: minutes, not hours.
_base_ = ['./schedule_40k.py']
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=0.001, betas=(0.9, 0.999), weight_decay=0.05))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=100, by_epoch=False),
    dict(type='PolyLR', eta_min=1e-5, power=0.9, begin=100, end=2000, by_epoch=False),
]
train_cfg = dict(max_iters=2000, val_interval=200)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=200))
bn_momentum = 0.1  # short runs need running statistics that keep up
