# Only the head learns, so an outer step is cheap; the first ones wait until the head knows the defects.
_base_ = [
    './fpn-r18-l3-frozen_baseline_900_wta-256.py', '../_base_/synthesis/paste_poisson.py', '../_base_/bilevel/maps.py'
]
synthesis = dict(where='device')
bilevel = dict(interval=4, warm_up=300)
