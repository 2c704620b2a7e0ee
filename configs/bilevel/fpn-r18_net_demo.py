# python tools/make_demo_data.py data/demo --layout mvtec --images 120 --size 128
# python tools/split_dataset.py data/demo/mvtec --layout mvtec --category carpet --protocol fractions \
#     --fractions train=0.5 outer_val=0.2 val=0.15 test=0.15 --out data/demo/mvtec/carpet_splits.json
_base_ = [
    '../_base_/models/fpn_r18.py',
    '../_base_/datasets/mvtec_256.py',
    '../_base_/losses/tversky_focal.py',
    '../_base_/synthesis/paste_anywhere.py',
    '../_base_/bilevel/net.py',
    '../_base_/schedules/schedule_2k.py',
    '../_base_/default_runtime.py',
]
data_root = 'data/demo/mvtec'
split_file = 'carpet_splits.json'
crop_size = (128, 128)
image_scale = (128, 128)
train_cfg = dict(max_iters=400, val_interval=200)
param_scheduler = [dict(type='PolyLR', eta_min=1e-5, power=0.9, begin=0, end=400, by_epoch=False)]
default_hooks = dict(checkpoint=dict(interval=200))
bilevel = dict(warm_up=100)
synthesis = dict(where='device', ratio=dict(real=1, synthetic=1, clean=1))
