_base_ = ['./fpn-r18-l3_baseline_600_wta-256.py', '../_base_/synthesis/paste_poisson.py']
