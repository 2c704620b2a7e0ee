_base_ = ['mmseg::_base_/models/danet_r50-d8.py']
