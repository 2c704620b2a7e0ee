# The final recipe of the runs published with the WTA set: data, optimiser, warm-up, length and loss.
_base_ = ['./datasets/wta_512_published.py', './schedules/schedule_40k_lr160k.py', './losses/focal_published.py']
