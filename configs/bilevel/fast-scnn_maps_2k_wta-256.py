# python tools/split_outer_val.py data/wta512 --layout wta
_base_ = [
    '../_base_/models/fast_scnn.py',
    '../_base_/datasets/wta_256.py',
    '../_base_/losses/tversky_focal.py',
    '../_base_/synthesis/paste_poisson.py',
    '../_base_/bilevel/maps.py',
    '../_base_/schedules/schedule_2k.py',
    '../_base_/default_runtime.py',
]
train_dataloader = dict(dataset=dict(split_file='outer_splits.json', split='train'))
synthesis = dict(where='device', ratio=dict(real=1, synthetic=1, clean=1))
