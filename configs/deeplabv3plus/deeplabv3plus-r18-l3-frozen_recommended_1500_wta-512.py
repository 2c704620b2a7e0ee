_base_ = [
    '../_base_/models/deeplabv3plus_r18-l3_frozen.py',
    '../_base_/datasets/wta_512_crop256.py',
    '../_base_/losses/focal_published.py',
    '../_base_/schedules/schedule_1500.py',
    '../_base_/default_runtime.py',
]
train_dataloader = dict(batch_size=4)
