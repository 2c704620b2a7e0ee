# For a head on a frozen backbone, batches of 4, bfloat16 where the device has it.
_base_ = ['./schedule_2k.py']
optim_wrapper = dict(optimizer=dict(lr=0.002))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=50, by_epoch=False),
    dict(type='PolyLR', eta_min=1e-5, power=0.9, begin=50, end=900, by_epoch=False),
]
train_cfg = dict(max_iters=900, val_interval=150)
default_hooks = dict(checkpoint=dict(interval=150))
