_base_ = [
    '../_base_/models/fpn_r18-l3.py',
    '../_base_/datasets/tiles_160.py',
    '../_base_/losses/focal.py',
    '../_base_/schedules/schedule_600.py',
    '../_base_/default_runtime.py',
]
loss_decode = dict(alpha=[0.1, 0.5, 0.5, 0.5, 0.5, 0.5])
train_dataloader = dict(batch_size=4)
