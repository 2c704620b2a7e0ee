_base_ = ['mmseg::_base_/models/fastfcn_r50-d32_jpu_psp.py']
