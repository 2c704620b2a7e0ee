_base_ = [
    '../_base_/models/fast_scnn.py',
    '../_base_/datasets/wta_256.py',
    '../_base_/datasets/generated.py',
    '../_base_/losses/weak_box_mixed.py',
    '../_base_/schedules/schedule_2k.py',
    '../_base_/default_runtime.py',
]
generated = dict(folder='data/generated/boxes')
