"""What do pasted defects teach where only few real ones are labelled? Screw of MVTec AD with 1 and 5 images of a type.

Before it, with the category of 512 pixels in data/screw, and the second command for the seeds N = 0 .. 7:
    python tools/split_dataset.py data/screw --layout mvtec --protocol third --category screw
    python tools/split_fewer.py data/screw/splits.json --shots 1 5 --seed N

few_defects_macaroni1.py, few_defects_bottle.py and few_defects_tiles.py are this study on other data; their first lines
say how it is divided.
"""

_product = globals().get('_product', 'screw')
#: Leaf config, size of the images, size of the crops, images of a type, seeds, recipe of pasting.
_leaf, _scale, _crop, _shots, _seeds, _recipe = {
    'screw': ('mvtec-256', (512, 512), 256, (1, 5), 8, 'paste_on_object'),
    'macaroni1': ('folder-256', (1024, 683), 256, (5, 10), 8, 'paste_on_object'),
    'bottle': ('mvtec-256', (512, 512), 256, (5,), 5, 'paste_on_object'),
    'tiles': ('tiles-160', (256, 256), 256, (5,), 5, 'paste_anywhere'),
}[_product]

name = 'few_defects' if _product == 'screw' else f'few_defects_{_product}'
title = f'Few labelled defects: {_product}'
text = (
    'FPN on a frozen ResNet-18 without its fourth stage, ImageNet weights (`weights/`), '
    f'images of {_scale[0]}, crops of {_crop} of which half are asked to show a defect, batch 4, softmax focal loss, '
    'bfloat16, equal updates. The k images of a type are other ones for each seed; all good training images are there '
    'in every arm. `plain_k`: every second draw is one of the defective images. `pastes_k`: half of the draws are '
    'real, a quarter good images with defects of those images blended in, a quarter good ones. Chosen on validation, '
    'tested once; calibrated values use offsets fitted on validation.'
)
base = f'configs/fpn/fpn-r18-l3-frozen_baseline_900_{_leaf}.py'
factor = dict(name='synthesis and number of images', keys=['*synthesis*', '*sampler*', '*dataset*', '*split_file*'])
tolerates = ['code']  # arms come one after the other; the page says how many states of the code trained
iterations = 500
val_interval = 250
seeds = list(range(_seeds))
selection = dict(metric='any_AP', tie='last')
metrics = ['any_AP', 'AUPRO30', 'cal_any_IoU', 'image_AUROC', 'cRecall', 'FA_images', 'any_F1max', 'any_IoU']
bases = ['configs/_base_/weights/resnet18-l3_file.py', 'configs/_base_/defect_crop.py']
overrides = {'amp': True, 'image_scale': _scale, 'crop_size': (_crop, _crop)}
_half = dict(_delete_=True, type='MixingSampler', defective_share=0.5, shuffle=True)
arms, pairs = {}, []
for _k in _shots:
    _file = {'split_file': f'shots_{_k}_{{seed}}.json'}
    _images = f'{_k} real defective image{"" if _k == 1 else "s"} of each type'
    arms[f'plain_{_k}'] = dict(overrides={**_file, 'train_dataloader.sampler': _half}, note=_images)
    arms[f'pastes_{_k}'] = dict(
        bases=[f'configs/_base_/synthesis/{_recipe}.py'],
        overrides=_file,
        note='and their defects pasted into good ones',
    )
    pairs.append((f'plain_{_k}', f'pastes_{_k}'))
