# Softmax focal loss. gamma=0 is the cross entropy; unlike mmseg's it takes class weights and the mean over labelled pixels together.
loss_decode = dict(type='SoftmaxFocalLoss', gamma=2.0, alpha=None)
