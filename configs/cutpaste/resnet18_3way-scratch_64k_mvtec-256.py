_base_ = [
    '../_base_/models/cutpaste_resnet18.py',
    '../_base_/datasets/good_256.py',
    '../_base_/schedules/cutpaste_64k.py',
    '../_base_/cutpaste_runtime.py',
]
custom_hooks = []  # nothing to protect: the weights are random
