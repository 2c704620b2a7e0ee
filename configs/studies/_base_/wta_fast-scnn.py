"""2,000 updates of Fast-SCNN, the cutting inserts."""

base = 'configs/fast_scnn/fast-scnn_baseline_2k_wta-256.py'
iterations = 2000
val_interval = 200
seeds = [0, 1, 2]
selection = dict(metric='fg_mIoU', tie='last')
metrics = [
    'fg_mIoU',
    'cal_fg_mIoU',
    'fg_AP',
    'fg_mAcc',
    'IoU.attached',
    'IoU.broken',
    'cRecall',
    'FA_per_image',
    'mIoU',
]
