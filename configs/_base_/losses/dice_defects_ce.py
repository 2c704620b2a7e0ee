# Dice over the defect classes alone: the normal class is nearly all of the image and nearly always right.
loss_decode = [
    dict(type='DefectDiceLoss', defects_only=True, loss_weight=0.5),
    dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=0.5),
]
