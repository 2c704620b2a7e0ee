# U-Net of mmseg, predicted whole.
_base_ = ['mmseg::_base_/models/fcn_unet_s5-d16.py']
model = dict(test_cfg=dict(_delete_=True, mode='whole'))
