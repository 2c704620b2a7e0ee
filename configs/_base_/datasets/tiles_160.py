# Magnetic tiles with five types of defects; exposures of one tile stand together.
# python tools/split_dataset.py data/magnetic_tile --layout folder --protocol fractions \
#     --fractions train=0.5 outer_val=0.15 val=0.15 test=0.2 --groups data/magnetic_tile/near_duplicate_groups.json
_base_ = ['./folder_256.py']
data_root = 'data/magnetic_tile'
num_classes = 6
crop_size = (160, 160)
image_scale = (160, 160)
