"""How many real defects is one synthesised data set worth? A product of MVTec AD with 1, 3 and all images of a type.

Before it, with the category in data/mvtec_ad, and the second command for the seeds N = 0, 1, 2:
    python tools/split_dataset.py data/mvtec_ad --layout mvtec --protocol third --category bottle \
        --out data/mvtec_ad/bottle_splits.json
    python tools/split_fewer.py data/mvtec_ad/bottle_splits.json --shots 1 3 --seed N \
        --out 'data/mvtec_ad/bottle_shots_{shots}_{seed}.json'
"""

_product = globals().get('_product', 'bottle')  # mvtec_screw.py is this file with another product

name = f'mvtec_{_product}'
title = f'Learning curves on {_product} of MVTec AD'
text = (
    'FPN on a frozen ResNet-18 without its fourth stage, ImageNet weights (`weights/`), images of 256, batch 4, '
    'softmax focal loss with alpha .2 .8, bfloat16, equal updates. A third of the defective images trains, less a '
    'fifth that validates (five or six of a type remain: `all`), two thirds test; the k images of a type are other '
    'ones for each seed; all good training images are there in every arm. `real_k`: every second draw is one of the '
    'defective images. `kept_k`: half of the draws are real, a quarter good images with defects of those images '
    'blended in on the part, a quarter good ones. Chosen on validation, tested once; calibrated values use offsets '
    'fitted on validation.'
)
base = 'configs/fpn/fpn-r18-l3-frozen_baseline_900_mvtec-256.py'
factor = dict(name='synthesis and number of images', keys=['*synthesis*', '*sampler*', '*dataset*', '*split_file*'])
iterations = 400
val_interval = 200
seeds = [0, 1, 2]
selection = dict(metric='any_AP', tie='last')
metrics = [
    'any_AP',
    'any_F1max',
    'cal_fg_mIoU',
    'fg_mIoU',
    'AUPRO30',
    'AUPRO5',
    'cRecall',
    'FA_per_image',
    'image_AUROC',
]
baseline = 'real_all'
bases = ['configs/_base_/weights/resnet18-l3_file.py']
overrides = {'amp': True, 'split_file': f'{_product}_splits.json'}
_half = dict(_delete_=True, type='MixingSampler', defective_share=0.5, shuffle=True)
arms, pairs = {}, []
for _shots in (1, 3, 'all'):
    _file = {} if _shots == 'all' else {'split_file': f'{_product}_shots_{_shots}_{{seed}}.json'}
    arms[f'real_{_shots}'] = dict(
        overrides={**_file, 'train_dataloader.sampler': _half},
        note=f'{_shots} real defective image{"" if _shots == 1 else "s"} of each type',
    )
    arms[f'kept_{_shots}'] = dict(
        bases=['configs/_base_/synthesis/paste_on_object.py'],
        overrides=_file,
        note='and their defects pasted into good ones',
    )
    pairs.append((f'real_{_shots}', f'kept_{_shots}'))
