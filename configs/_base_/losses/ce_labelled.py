# Cross entropy averaged over the labelled pixels: padding and ignored bands do not dilute it, class weights are
# welcome.
loss_decode = dict(type='SoftmaxFocalLoss', gamma=0.0, loss_name='loss_ce')
