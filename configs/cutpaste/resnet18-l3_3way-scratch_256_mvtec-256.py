_base_ = [
    '../_base_/models/cutpaste_resnet18-l3.py',
    '../_base_/datasets/good_256.py',
    '../_base_/schedules/cutpaste_256.py',
    '../_base_/cutpaste_runtime.py',
]
model = dict(backbone=dict(frozen_stages=-1, norm_eval=False, init_cfg=None))
train_dataloader = dict(batch_size=8)
custom_hooks = []
