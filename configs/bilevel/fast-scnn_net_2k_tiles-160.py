_base_ = ['./fast-scnn_baseline_2k_tiles-160.py', '../_base_/synthesis/paste_anywhere.py', '../_base_/bilevel/net.py']
synthesis = dict(where='device', ratio=dict(real=1, synthetic=1, clean=1))
