# The final recipe of the runs published with the WTA set: optimiser, warm-up, length and loss; data: wta_512_system5.py.
_base_ = ['./schedule_40k_lr160k.py', '../losses/focal_system5.py']
