# Only the head learns, so an outer step is cheap; the first ones wait until the head knows the defects.
_base_ = [
    '../fpn/fpn-r18-l3-frozen_baseline_900_tiles-160.py', '../_base_/synthesis/paste_anywhere.py',
    '../_base_/bilevel/net.py'
]
synthesis = dict(where='device')
bilevel = dict(interval=4, warm_up=300, rates=dict(location=0.01))
