_base_ = [
    '../_base_/models/fpn_r18-l3_frozen.py',
    '../_base_/datasets/folder_256.py',
    '../_base_/losses/focal.py',
    '../_base_/schedules/schedule_900.py',
    '../_base_/default_runtime.py',
]
num_classes = 2
loss_decode = dict(alpha=[0.2, 0.8])
train_dataloader = dict(batch_size=4)
