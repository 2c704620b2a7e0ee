# A missed pixel costs more than a false one; gamma=1 is the loss without focusing.
loss_decode = dict(type='TverskyFocalLoss', alpha=0.3, beta=0.7, gamma=1.0)
