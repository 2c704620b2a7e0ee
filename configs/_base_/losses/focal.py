# Softmax focal loss. Unlike mmseg's it takes class weights and the mean over labelled pixels together; gamma=0 is the
# cross entropy.
loss_decode = dict(type='SoftmaxFocalLoss', gamma=2.0, alpha=None)
