# The same policy by conjugate gradient, which does not depend on the inner optimiser and so not on its learning rate.
_base_ = ['./fpn-r18-l3-frozen_net_600_tiles-160.py']
bilevel = dict(estimator=dict(_delete_=True, name='cg', iterations=5, damping=0.1, products='difference'))
