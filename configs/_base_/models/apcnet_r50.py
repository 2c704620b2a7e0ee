_base_ = ['mmseg::_base_/models/apcnet_r50-d8.py']
