_base_ = ['mmseg::_base_/models/bisenetv2.py']
