# The clean training images of the cutting inserts: the start of configs/studies/cutpaste_init.py.
_base_ = [
    '../_base_/models/cutpaste_resnet18.py',
    '../_base_/datasets/good_256.py',
    '../_base_/schedules/cutpaste_256.py',
    '../_base_/cutpaste_runtime.py',
]
data_root = 'data/wta512/img_dir/train'
labels = 'data/wta512/ann_dir/train'
custom_hooks = []
train_dataloader = dict(batch_size=8, dataset=dict(labels=labels))
val_dataloader = dict(dataset=dict(labels=labels))
