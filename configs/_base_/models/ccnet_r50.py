# CCNet on ResNet-50.
_base_ = ['mmseg::_base_/models/ccnet_r50-d8.py']
model = dict(decode_head=dict(type='CrissCrossHead'))  # mmseg's head with the attention in plain torch
