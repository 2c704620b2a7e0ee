# Your own folder; tools/init_project.py writes a leaf that sets data_root, classes, split_file and sizes.
_base_ = ['./labelled_256.py']
data_root = 'data/mypart'
split_file = 'splits.json'
train_dataloader = dict(dataset=dict(type='FolderDefectDataset', split_file=split_file, split='train'))
val_dataloader = dict(dataset=dict(type='FolderDefectDataset', split_file=split_file, split='val'))
test_dataloader = dict(dataset=dict(type='FolderDefectDataset', split_file=split_file, split='test'))
