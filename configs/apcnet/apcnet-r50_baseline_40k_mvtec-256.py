_base_ = [
    'mmseg::_base_/models/apcnet_r50-d8.py',
    '../_base_/datasets/mvtec_256.py',
    '../_base_/losses/ce.py',
    '../_base_/schedules/schedule_40k.py',
    '../_base_/default_runtime.py',
]
