# 150 outer steps instead of 60, by the cheapest estimator: does the policy want for pastes seen?
_base_ = ['./fpn-r18-l3-frozen_maps_400_wta-256.py']
train_cfg = dict(max_iters=450, val_interval=225)
default_hooks = dict(checkpoint=dict(interval=225))
bilevel = dict(estimator=dict(_delete_=True, name='one_step', products='difference'), interval=2)
