# Dice over all classes: how much of each class overlaps, however small it is.
loss_decode = dict(type='DefectDiceLoss')
