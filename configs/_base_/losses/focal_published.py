# The published recipe of the WTA set: normal, attached, broken.
loss_decode = dict(type='SoftmaxFocalLoss', gamma=2.0, alpha=[0.1, 0.3, 0.6])
