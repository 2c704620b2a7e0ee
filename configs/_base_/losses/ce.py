# Cross entropy of mmseg. Ignored pixels count in its mean: with `avg_non_ignore=True` it fails where there are class
# weights.
loss_decode = dict(type='CrossEntropyLoss', use_sigmoid=False)
