_base_ = ['./resnet18_3way-scratch_64k_mvtec-256.py']
model = dict(backbone=dict(_delete_=True, type='mmpretrain.MobileNetV2'))
