_base_ = [
    '../_base_/models/fpn_r18-l3_frozen.py',
    '../_base_/datasets/mvtec_256.py',
    '../_base_/losses/focal.py',
    '../_base_/schedules/schedule_900.py',
    '../_base_/default_runtime.py',
]
loss_decode = dict(alpha=[0.2, 0.8])
train_dataloader = dict(batch_size=4)
