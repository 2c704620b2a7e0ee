_base_ = ['mmseg::_base_/models/upernet_r50.py']
