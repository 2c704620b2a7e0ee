# What all data sets of labelled images share: crops of 256, loaders, metrics; the data set's own base says what is
# loaded.
crop_size = (256, 256)
image_scale = (256, 256)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadDefectAnnotations'),
    dict(type='RandomResize', scale=image_scale, ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type='RandomCrop', crop_size=crop_size, cat_max_ratio=1.0),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PhotoMetricDistortion'),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=image_scale, keep_ratio=True),
    dict(type='LoadDefectAnnotations'),  # after the resize: labels keep the resolution of the file
    dict(type='PackSegInputs'),
]
train_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefectSampler', shuffle=True),
    dataset=dict(data_root=None, pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False, round_up=False),
    dataset=dict(data_root=None, pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='DefectMetric', groups=('pixel', 'ranking'), calibration='fit')
test_evaluator = dict(type='DefectMetric', groups='all', calibration='apply')
tta = dict(ratios=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75), flip=True)
