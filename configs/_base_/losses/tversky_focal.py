# The sum of Tversky and focal loss.
loss_decode = [
    dict(type='TverskyFocalLoss', alpha=0.3, beta=0.7, gamma=1.0, loss_name='loss_tversky'),
    dict(type='SoftmaxFocalLoss', gamma=2.0, alpha=None),
]
