"""How many real defects is one synthesised data set worth? Magnetic tiles with 1, 3, 5, 10 and all images of a type.

Before it, after making the split that datasets/tiles_160.py names, for the seeds N = 0, 1, 2:
    python tools/split_fewer.py data/magnetic_tile/splits.json --shots 1 3 5 10 --seed N \
        --groups data/magnetic_tile/near_duplicate_groups.json
"""

_base_ = '_base_/tiles_frozen.py'
name = 'tiles_curve'
title = 'Learning curves on magnetic tiles'
text = (
    'FPN on a frozen ResNet-18 without its fourth stage, ImageNet weights (`weights/`, 100 % of the backbone '
    'matched), on magnetic tiles with five types of defects, crop 160, batch 4, softmax focal loss, bfloat16, equal '
    'updates. Exposures of one tile are on one side; the k images of a type are of k tiles where there are as many, '
    'other ones for each seed; the 150 clean training tiles, validation and test are the same for all arms. `real_k`: '
    'every second draw is one of the real defective images. `paste_k`: a third real, a third clean tiles with defects '
    'of those images pasted in, a third clean. Chosen on validation, tested once; calibrated values use offsets '
    'fitted on validation.'
)
factor = dict(name='synthesis and number of images', keys=['*synthesis*', '*sampler*', '*dataset*', '*split_file*'])
baseline = 'real_all'
pairs = [(f'real_{k}', f'paste_{k}') for k in (1, 3, 5, 10, 'all')]
_paste = ['configs/_base_/synthesis/paste_anywhere.py']
_half = dict(_delete_=True, type='MixingSampler', defective_share=0.5, shuffle=True)
arms = {}
for _shots in (1, 3, 5, 10, 'all'):
    _file = {} if _shots == 'all' else {'split_file': f'shots_{_shots}_{{seed}}.json'}
    _images = 'one real defective image' if _shots == 1 else f'{_shots} real defective images'
    arms[f'real_{_shots}'] = dict(
        overrides={**_file, 'train_dataloader.sampler': _half}, note=f'{_images} of each type'
    )
    arms[f'paste_{_shots}'] = dict(
        bases=[*_paste, 'configs/studies/_base_/thirds.py'],
        overrides=_file,
        note='and their defects pasted into clean ones',
    )
# Large defects (`uneven`, `fray`) do not fit where they would be pasted and are left out of the pastes, so a third of
# synthetic draws takes examples of them away. Here the real images keep their half of the draws, and pastes replace
# clean ones.
for _shots in (1, 'all'):
    arms[f'kept_{_shots}'] = dict(
        bases=_paste,
        priority=2,
        note='half real, a quarter pasted, a quarter clean',
        overrides={} if _shots == 'all' else {'split_file': f'shots_{_shots}_{{seed}}.json'},
    )
