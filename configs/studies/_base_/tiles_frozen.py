"""Minutes on a core: FPN on a frozen ResNet-18, weights from a file, magnetic tiles."""

base = 'configs/fpn/fpn-r18-l3-frozen_baseline_900_tiles-160.py'
iterations = 800
val_interval = 200
seeds = [0, 1, 2]
selection = dict(metric='cal_fg_mIoU', tie='last')
metrics = [
    'cal_fg_mIoU',
    'fg_AP',
    'fg_mIoU',
    'any_AP',
    'cRecall',
    'FA_per_image',
    'AP.blowhole',
    'AP.break',
    'AP.crack',
    'AP.fray',
    'AP.uneven',
]
bases = ['configs/_base_/weights/resnet18-l3_file.py']
overrides = {'amp': True}
