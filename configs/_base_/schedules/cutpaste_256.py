# One epoch of the paper, for a CPU.
_base_ = ['./cutpaste_64k.py']
param_scheduler = [dict(type='CosineAnnealingLR', T_max=256, eta_min=0, begin=0, end=256, by_epoch=False)]
train_cfg = dict(max_iters=256, val_interval=64)
default_hooks = dict(logger=dict(interval=8), checkpoint=dict(interval=64))
