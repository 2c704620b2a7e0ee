# The rendered demo set (tools/make_demo_data.py) in the layout of the WTA set.
_base_ = ['./wta_256.py']
data_root = 'data/demo/wta'
