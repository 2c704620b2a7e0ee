_base_ = ['mmseg::_base_/models/bisenetv1_r18-d32.py']
