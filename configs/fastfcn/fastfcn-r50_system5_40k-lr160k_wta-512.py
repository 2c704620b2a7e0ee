_base_ = [
    '../_base_/models/fastfcn_r50.py',
    '../_base_/datasets/wta_512_system5.py',
    '../_base_/schedules/system5.py',
    '../_base_/default_runtime.py',
]
