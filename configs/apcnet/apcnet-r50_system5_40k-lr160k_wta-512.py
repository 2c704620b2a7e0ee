_base_ = [
    '../_base_/models/apcnet_r50.py', '../_base_/datasets/wta_512.py', '../_base_/losses/focal_system5.py',
    '../_base_/schedules/schedule_40k_lr160k.py', '../_base_/default_runtime.py'
]
