# Cutting inserts (system "WTA blade"): 512x512 images trained and predicted at 256, labels judged at 512.
_base_ = ['./labelled_256.py']
data_root = 'data/wta512'
num_classes = 3
train_dataloader = dict(
    dataset=dict(type='BladeWTADataset', data_prefix=dict(img_path='img_dir/train', seg_map_path='ann_dir/train'))
)
val_dataloader = dict(
    dataset=dict(type='BladeWTADataset', data_prefix=dict(img_path='img_dir/val', seg_map_path='ann_dir/val'))
)
test_dataloader = dict(
    dataset=dict(type='BladeWTADataset', data_prefix=dict(img_path='img_dir/test', seg_map_path='ann_dir/test'))
)
