_base_ = ['./fast-scnn_baseline_2k_wta-256.py', '../_base_/synthesis/paste_poisson.py']
