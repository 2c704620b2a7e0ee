_base_ = ['mmseg::_base_/models/stdc.py']
