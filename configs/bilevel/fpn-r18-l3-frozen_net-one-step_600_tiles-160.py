# 200 outer steps instead of 100, by the cheapest estimator: does the policy want for pastes seen?
_base_ = ['./fpn-r18-l3-frozen_net_600_tiles-160.py']
bilevel = dict(estimator=dict(_delete_=True, name='one_step', products='difference'), interval=2)
