_base_ = [
    'mmseg::_base_/models/upernet_r50.py',
    '../_base_/datasets/wta_256.py',
    '../_base_/losses/ce.py',
    '../_base_/schedules/schedule_40k.py',
    '../_base_/default_runtime.py',
]
