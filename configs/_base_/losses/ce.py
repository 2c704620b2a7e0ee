loss_decode = dict(type='CrossEntropyLoss', use_sigmoid=False, avg_non_ignore=True)
