_base_ = [
    '../_base_/models/lraspp_mobilenetv3.py', '../_base_/datasets/wta_512.py', '../_base_/losses/focal_system5.py',
    '../_base_/schedules/schedule_40k_lr160k.py', '../_base_/default_runtime.py'
]
