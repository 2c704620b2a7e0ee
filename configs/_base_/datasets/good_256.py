# Good images only: <data_root>/<category>/train/good, those that `division` trains on of VisA as downloaded, or with
# `category = None` any folder of images.
data_root = 'data/mvtec_ad'
category = None
division = None
image_scale = (256, 256)
variant = '3way'
patch = None
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=image_scale, keep_ratio=False),
    dict(type='PackCutPasteViews'),  # after the resize: pastes are sized in network pixels
]
val_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=image_scale, keep_ratio=False),
    dict(type='PackCutPasteViews', fixed_seed=0),
]
train_dataloader = dict(
    batch_size=32,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefectSampler', shuffle=True),
    collate_fn=dict(type='pseudo_collate'),
    dataset=dict(
        type='GoodImageDataset',
        data_root=data_root,
        category=category,
        division=division,
        part='fit',
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type='DefaultSampler', shuffle=False, round_up=False),
    collate_fn=dict(type='pseudo_collate'),
    dataset=dict(
        type='GoodImageDataset',
        data_root=data_root,
        category=category,
        division=division,
        part='held_out',
        pipeline=val_pipeline,
    ),
)
val_evaluator = dict(type='ViewAccuracy')
