_base_ = [
    '../_base_/models/fast_scnn.py',
    '../_base_/datasets/demo_wta_256.py',
    '../_base_/losses/ce.py',
    '../_base_/schedules/schedule_2k.py',
    '../_base_/default_runtime.py',
]
train_cfg = dict(max_iters=400, val_interval=100)
param_scheduler = [dict(type='PolyLR', eta_min=1e-5, power=0.9, begin=0, end=400, by_epoch=False)]
default_hooks = dict(checkpoint=dict(interval=100))
