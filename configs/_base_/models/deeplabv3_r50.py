_base_ = ['mmseg::_base_/models/deeplabv3_r50-d8.py']
