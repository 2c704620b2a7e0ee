_base_ = ['./resnet18_3way-scratch_64k_mvtec-256.py']
patch = 64
