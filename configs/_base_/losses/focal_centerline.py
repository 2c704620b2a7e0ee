# For scratches: a gap in the middle of a line costs extra.
loss_decode = [
    dict(type='SoftmaxFocalLoss', gamma=2.0, alpha=None),
    dict(type='CenterlineDiceLoss', iterations=3, loss_weight=0.1),
]
