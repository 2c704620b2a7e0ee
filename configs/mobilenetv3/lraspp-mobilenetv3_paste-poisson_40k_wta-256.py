_base_ = [
    '../_base_/models/lraspp_mobilenetv3.py',
    '../_base_/datasets/wta_256.py',
    '../_base_/losses/focal.py',
    '../_base_/synthesis/paste_poisson.py',
    '../_base_/schedules/schedule_40k.py',
    '../_base_/default_runtime.py',
]
