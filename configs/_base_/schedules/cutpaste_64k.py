# The paper's schedule: SGD .03 with cosine decay; one "epoch" is 256 updates, 256 epochs are 65,536 updates.
optim_wrapper = dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.03, momentum=0.9, weight_decay=0.00003))
param_scheduler = [dict(type='CosineAnnealingLR', T_max=65536, eta_min=0, begin=0, end=65536, by_epoch=False)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=65536, val_interval=4096)
val_cfg = dict(type='ValLoop')
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=64, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=4096, max_keep_ckpts=2),
    sampler_seed=dict(type='DistSamplerSeedHook'),
)
