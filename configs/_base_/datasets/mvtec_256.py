# MVTec AD as downloaded. Its training folder has no defects, so supervised training reads a split file:
# python tools/split_dataset.py data/mvtec_ad --layout mvtec --protocol third --out data/mvtec_ad/splits.json
_base_ = ['./folder_256.py']
data_root = 'data/mvtec_ad'
num_classes = 2
train_dataloader = dict(dataset=dict(type='MVTecDataset'))
val_dataloader = dict(dataset=dict(type='MVTecDataset'))
test_dataloader = dict(dataset=dict(type='MVTecDataset'))
