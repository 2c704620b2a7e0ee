# Cutting inserts at the size of their files.
_base_ = ['./wta_256.py']
crop_size = (512, 512)
image_scale = (512, 512)
