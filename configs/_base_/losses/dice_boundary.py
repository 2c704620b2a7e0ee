# Dice for the area, distance to the border for mistakes far away from it.
loss_decode = [
    dict(type='DefectDiceLoss', defects_only=True),
    dict(type='SignedDistanceLoss', max_distance=20.0, loss_weight=0.1),
]
