# As that of configs/fpn, on the training images that the outer-validation split leaves.
# python tools/split_outer_val.py data/wta512 --layout wta
_base_ = ['../fpn/fpn-r18-l3-frozen_baseline_900_wta-256.py']
train_dataloader = dict(dataset=dict(split_file='outer_splits.json', split='train'))
