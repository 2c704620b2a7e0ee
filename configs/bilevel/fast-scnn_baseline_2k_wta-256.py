# As the runs of configs/fast_scnn, on the training images that the outer-validation split leaves.
# python tools/split_outer_val.py data/wta512 --layout wta
_base_ = [
    '../_base_/models/fast_scnn.py',
    '../_base_/datasets/wta_256.py',
    '../_base_/losses/tversky_focal.py',
    '../_base_/schedules/schedule_2k.py',
    '../_base_/default_runtime.py',
]
train_dataloader = dict(dataset=dict(split_file='outer_splits.json', split='train'))
