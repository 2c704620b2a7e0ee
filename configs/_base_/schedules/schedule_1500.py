# As schedule_900.py, longer: a quarter of an hour on two cores.
_base_ = ['./schedule_900.py']
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, begin=0, end=83, by_epoch=False),
    dict(type='PolyLR', eta_min=1e-5, power=0.9, begin=83, end=1500, by_epoch=False),
]
train_cfg = dict(max_iters=1500, val_interval=250)
default_hooks = dict(checkpoint=dict(interval=250))
