# As net.py, for parts that always lie the same way: a table for each class over the frame of the file.
_base_ = ['./net.py']
bilevel = dict(policy=dict(location=dict(_delete_=True, type='maps', num_classes=2, size=16)), rates=dict(location=0.1))
