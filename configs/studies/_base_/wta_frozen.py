"""Minutes on a core: FPN on a frozen ResNet-18, the cutting inserts."""

base = 'configs/fpn/fpn-r18-l3-frozen_baseline_900_wta-256.py'
iterations = 500
val_interval = 250
seeds = [0, 1, 2]
selection = dict(metric='cal_fg_mIoU', tie='last')
metrics = [
    'cal_fg_mIoU',
    'fg_AP',
    'fg_mIoU',
    'AP.attached',
    'AP.broken',
    'tIoU.attached',
    'tIoU.broken',
    'cRecall',
    'FA_per_image',
]
overrides = {'amp': True}
