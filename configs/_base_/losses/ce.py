# mmseg's cross entropy fails with `avg_non_ignore=True` and class weights together, so ignored pixels count in its
# mean.
loss_decode = dict(type='CrossEntropyLoss', use_sigmoid=False)
