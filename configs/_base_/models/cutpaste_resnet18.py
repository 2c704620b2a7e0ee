# ResNet-18 with a projection head; the head takes the width of whatever backbone stands here.
model = dict(
    type='CutPasteClassifier',
    data_preprocessor=dict(type='ViewDataPreProcessor'),
    backbone=dict(type='mmpretrain.ResNet', depth=18, num_stages=4, out_indices=(3,)),
    head=dict(type='ProjectionHead', hidden=(512, 128)),
)
