# As published with the WTA set: objects from half to three times their size, crops that are not all one class.
_base_ = ['./wta_512.py']
train_dataloader = dict(
    dataset=dict(
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadDefectAnnotations'),
            dict(type='RandomResize', scale=(512, 512), ratio_range=(0.5, 3.0), keep_ratio=True),
            dict(type='RandomCrop', crop_size=(512, 512), cat_max_ratio=0.75),
            dict(type='RandomFlip', prob=0.5),
            dict(type='PhotoMetricDistortion'),
            dict(type='PackSegInputs'),
        ]
    )
)
