# AdamW with a warm-up; the decay is laid out for 160k iterations and stopped at 40k, so it ends at 75 % of the rate.
_base_ = ['./schedule_40k.py']
optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=0.001, betas=(0.9, 0.999), weight_decay=0.05))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, begin=0, end=1500, by_epoch=False),
    dict(type='PolyLR', eta_min=0.0, power=1.0, begin=1500, end=160000, by_epoch=False),
]
