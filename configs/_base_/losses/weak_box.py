# Every defect label is a box: a warm-up with all of its pixels, then only those that already look defective.
loss_decode = dict(type='WeakBoxLoss', tau=0.1, warmup=500, ramp=0, gamma=2.0)
