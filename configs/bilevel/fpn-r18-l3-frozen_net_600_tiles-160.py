# Only the head learns, so an outer step is cheap; the first ones wait until the head knows the defects. The learning
# rate stays as it is: the hypergradient is proportional to it, and with a decaying one the policy stands still long
# before the end.
_base_ = [
    '../fpn/fpn-r18-l3-frozen_baseline_900_tiles-160.py',
    '../_base_/synthesis/paste_anywhere.py',
    '../_base_/bilevel/net.py',
]
param_scheduler = [dict(type='LinearLR', start_factor=1e-3, begin=0, end=50, by_epoch=False)]
optim_wrapper = dict(optimizer=dict(lr=0.001))
train_cfg = dict(max_iters=600, val_interval=300)
default_hooks = dict(checkpoint=dict(interval=300))
train_dataloader = dict(batch_size=8)
synthesis = dict(where='device', ratio=dict(real=1, synthetic=1, clean=1))
bilevel = dict(  # a normalised map says where, and leaves how much to the weights
    policy=dict(proposal=dict(normalise=True)),
    interval=4,
    warm_up=200,
    betas=(0.9, 0.95),
    rates=dict(weights=0.05, location=0.02),
)
