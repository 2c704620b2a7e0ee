# Labels of generated images are boxes, those of real ones exact (tools/generate.py pack-boxes).
loss_decode = dict(type='WeakBoxLoss', tau=0.1, warmup=500, ramp=0, gamma=2.0, mixed=True)
