_base_ = ['mmseg::_base_/models/fast_scnn.py']
