_base_ = [
    '../_base_/models/fpn_mobilenetv2_frozen.py',
    '../_base_/datasets/wta_256.py',
    '../_base_/losses/focal_published.py',
    '../_base_/schedules/schedule_900.py',
    '../_base_/default_runtime.py',
]
train_dataloader = dict(batch_size=4)
