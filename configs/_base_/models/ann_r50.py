_base_ = ['mmseg::_base_/models/ann_r50-d8.py']
