_base_ = ['mmseg::_base_/models/gcnet_r50-d8.py']
