"""The smallest networks and settings with which something real trains, and data for them."""

from __future__ import annotations

from pathlib import Path

from tests.helpers.data import save
from tests.helpers.defects import labelled_parts

#: Backbone of two stages, 16 and 8 channels.
TINY_UNET = dict(
    type='UNet',
    base_channels=8,
    num_stages=2,
    strides=(1, 1),
    enc_num_convs=(1, 1),
    dec_num_convs=(1,),
    downsamples=(True,),
    enc_dilations=(1, 1),
    dec_dilations=(1,),
    norm_cfg=dict(type='BN'),
)
#: ResNet-18 to its third stage.
RESNET18_L3 = dict(
    type='mmpretrain.ResNet', depth=18, num_stages=3, strides=(1, 2, 2), dilations=(1, 1, 1), out_indices=(2,)
)
TINY_RESNET = dict(RESNET18_L3, base_channels=8, stem_channels=8)


def tiny_head(**changes) -> dict:
    """Return an FCN head for the last stage of ``TINY_UNET``."""
    head = dict(type='FCNHead', in_channels=8, channels=8, num_convs=1, concat_input=False, num_classes=3)
    return {**head, 'in_index': 1, 'norm_cfg': dict(type='BN'), **changes}


def quick_options(updates: int, crop_size=(64, 64), image_scale=(80, 64), batch_size: int = 2) -> dict:
    """Return settings of a leaf with which it trains so many updates in this process."""
    loaders = {}
    for split in ('train', 'val', 'test'):
        loaders |= {f'{split}_dataloader.num_workers': 0, f'{split}_dataloader.persistent_workers': False}
    return {
        'crop_size': crop_size,
        'image_scale': image_scale,
        'train_dataloader.batch_size': batch_size,
        **loaders,
        'train_cfg.max_iters': updates,
        'train_cfg.val_interval': updates,
        'default_hooks.checkpoint.interval': updates,
        'default_hooks.logger.interval': 1,
    }


def as_arguments(options: dict) -> list[str]:
    """Return settings as ``--cfg-options`` takes them."""
    return [f'{key}={str(value).replace(" ", "")}' for key, value in options.items()]


def write_labelled_parts(root: Path, **counts: int) -> Path:
    """Write splits of parts with defects of all classes in the WTA layout."""
    for seed, (split, count) in enumerate(counts.items()):
        for index, (image, label) in enumerate(labelled_parts(count, seed)):
            save(root / 'img_dir' / split / f'{index}.png', image)
            save(root / 'ann_dir' / split / f'{index}.png', label)
    return root
