_base_ = ['./fast-scnn_baseline_demo.py', '../_base_/synthesis/paste_poisson.py']
