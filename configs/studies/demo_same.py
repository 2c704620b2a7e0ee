"""Two arms of the same config, with different seeds: a comparison must not find a difference. Minutes on a CPU."""

name = 'demo_same'
title = 'The same config twice'
text = (
    'A check of the comparison itself: both arms train the same settings on the demo data, the second one with '
    'seeds of its own, so every difference is luck. Data: `python tools/make_demo_data.py data/demo --layout wta '
    '--images 60 --size 128`, in data/demo/wta.'
)
base = 'configs/fast_scnn/fast-scnn_baseline_demo.py'
factor = dict(name='nothing', keys=['nothing'])
iterations = 150
val_interval = 50
seeds = [0, 1, 2]
selection = dict(metric='fg_mIoU', tie='last')
metrics = ['fg_mIoU', 'fg_mAcc', 'mIoU']
overrides = {
    'crop_size': [128, 128],
    'image_scale': [128, 128],
    'train_dataloader.batch_size': 4,
    'class_weight': [0.003, 1.0, 1.0],  # so that something is found after so few updates,
    'model.backbone.norm_cfg.momentum': 0.1,  # and the statistics of the batch norms (.01 in mmseg) have come that far
    'model.decode_head.norm_cfg.momentum': 0.1,
    'default_hooks.logger.interval': 10,
}
arms = dict(first={}, second=dict(seed_offset=100))
