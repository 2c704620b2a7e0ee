# Half Dice, half cross entropy.
loss_decode = [
    dict(type='DefectDiceLoss', loss_weight=0.5),
    dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=0.5),
]
