_base_ = [
    '../_base_/models/fpn_r18.py',
    '../_base_/datasets/tiles_160.py',
    '../_base_/losses/tversky_focal.py',
    '../_base_/schedules/schedule_2k.py',
    '../_base_/default_runtime.py',
]
