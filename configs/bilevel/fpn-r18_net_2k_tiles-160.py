_base_ = [
    '../_base_/models/fpn_r18.py',
    '../_base_/datasets/folder_256.py',
    '../_base_/losses/tversky_focal.py',
    '../_base_/synthesis/paste_anywhere.py',
    '../_base_/bilevel/net.py',
    '../_base_/schedules/schedule_2k.py',
    '../_base_/default_runtime.py',
]
data_root = 'data/magnetic_tile'
num_classes = 6
crop_size = (160, 160)
image_scale = (160, 160)
synthesis = dict(where='device', ratio=dict(real=1, synthetic=1, clean=1))
