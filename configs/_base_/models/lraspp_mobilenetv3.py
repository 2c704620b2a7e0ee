# LR-ASPP on MobileNetV3.
_base_ = ['mmseg::_base_/models/lraspp_m-v3-d8.py']
model = dict(decode_head=dict(type='FittedLRASPPHead'))  # mmseg's head, also for crops below 392 pixels
