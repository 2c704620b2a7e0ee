_base_ = ['mmseg::_base_/models/deeplabv3plus_r50-d8.py']
model = dict(pretrained=None)  # random unless a leaf names local weights in `backbone.init_cfg`
