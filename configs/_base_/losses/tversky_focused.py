# As tversky, with the exponent 3/4 of the Focal Tversky loss.
loss_decode = dict(type='TverskyFocalLoss', alpha=0.3, beta=0.7, gamma=0.75)
