# One class against the rest in every channel; with it, predictions are read by argmax as usual.
loss_decode = dict(type='SigmoidFocalLoss', gamma=2.0, alpha=0.25)
