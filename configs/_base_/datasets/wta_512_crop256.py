# Cutting inserts at the size of their files, as half of their defects have two pixels or fewer: crops of a quarter, of
# which half are asked to show a defect.
_base_ = ['./wta_512.py', '../defect_crop.py']
crop_size = (256, 256)
