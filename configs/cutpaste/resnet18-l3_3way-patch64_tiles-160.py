# The clean training tiles, from ImageNet weights: the start of an arm of configs/studies/cutpaste_tiles.py.
_base_ = ['./resnet18-l3_3way-patch64_256_mvtec-256.py']
data_root = 'data/magnetic_tile'
split_file = 'splits.json'
image_scale = (160, 160)
train_dataloader = dict(batch_size=16, dataset=dict(split_file=split_file))
val_dataloader = dict(dataset=dict(split_file=split_file))
