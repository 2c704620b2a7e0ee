# The backbone stays as ImageNet left it, batch norms included: the quickest way to a first result on few images and a
# CPU, and the better one while there are only some hundred updates. Takes a higher learning rate, see schedule_900.py.
_base_ = ['./fpn_r18-l3.py']
model = dict(backbone=dict(frozen_stages=3, norm_eval=True))
