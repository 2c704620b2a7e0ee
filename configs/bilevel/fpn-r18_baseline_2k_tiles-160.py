# The split is that of fast-scnn_baseline_2k_tiles-160.py.
_base_ = [
    '../_base_/models/fpn_r18.py',
    '../_base_/datasets/folder_256.py',
    '../_base_/losses/tversky_focal.py',
    '../_base_/schedules/schedule_2k.py',
    '../_base_/default_runtime.py',
]
data_root = 'data/magnetic_tile'
num_classes = 6
crop_size = (160, 160)
image_scale = (160, 160)
