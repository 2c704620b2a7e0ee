_base_ = ['mmseg::_base_/models/upernet_r50.py']
model = dict(pretrained=None)  # random unless a leaf names local weights in `backbone.init_cfg`
