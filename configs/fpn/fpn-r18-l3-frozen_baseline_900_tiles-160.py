# The split is that of configs/bilevel/fast-scnn_baseline_2k_tiles-160.py.
_base_ = [
    '../_base_/models/fpn_r18-l3_frozen.py',
    '../_base_/datasets/folder_256.py',
    '../_base_/losses/focal.py',
    '../_base_/schedules/schedule_900.py',
    '../_base_/default_runtime.py',
]
data_root = 'data/magnetic_tile'
num_classes = 6
crop_size = (160, 160)
image_scale = (160, 160)
loss_decode = dict(alpha=[0.1, 0.5, 0.5, 0.5, 0.5, 0.5])
train_dataloader = dict(batch_size=4)
