_base_ = [
    '../_base_/models/cutpaste_resnet18-l3.py',
    '../_base_/datasets/good_256.py',
    '../_base_/schedules/cutpaste_256.py',
    '../_base_/cutpaste_runtime.py',
]
train_dataloader = dict(batch_size=8)
optim_wrapper = dict(optimizer=dict(lr=0.01))
