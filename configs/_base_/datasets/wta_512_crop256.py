# Cutting inserts at the size of their files: crops of a quarter, half of which are asked to show a defect. Half of the defects
# have two pixels or fewer, so nothing is made smaller.
_base_ = ['./wta_512.py']
crop_size = (256, 256)
train_dataloader = dict(dataset=dict(pipeline=[
    dict(type='LoadImageFromFile'),
    dict(type='LoadDefectAnnotations'),
    dict(type='RandomResize', scale=(512, 512), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='DefectCrop', crop_size=(256, 256), probability=0.5),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs')
]))
