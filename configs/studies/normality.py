r"""Which memory of good parts? Chosen on validation: no run of this study reads the test split.

Before it, with the category of 512 pixels in data/screw, for the seeds N = 0 .. 4:
    python tools/split_dataset.py data/screw --layout mvtec --protocol third --category screw
    python tools/split_fewer.py data/screw/splits.json --shots 1 --seed N --spare-to val \
        --out data/screw/dev_{shots}_N.json

normality_macaroni1.py is this study on VisA macaroni1 with 5 images.
"""

from pathlib import Path
from runpy import run_path

_product = globals().get('_product', 'screw')
_shots, _recipe = {'screw': 1, 'macaroni1': 5}[_product], 'paste_on_object'
_few = run_path(str(Path(__file__).with_name('few_defects.py')), dict(_product=_product))
_shared = ('base', 'bases', 'iterations', 'tolerates', 'selection', '_scale', '_half')
base, bases, iterations, tolerates, selection, _scale, _half = (_few[key] for key in _shared)

name = 'normality' if _product == 'screw' else f'normality_{_product}'
title = f'Memories of good parts: {_product}, on validation'
text = (
    'FPN on a frozen ResNet-18 without its fourth stage, ImageNet weights (`weights/`), images of '
    f'{_scale[0]}, crops of 256 of which half are asked to show a defect, batch 4, softmax focal loss, bfloat16, 500 '
    f'updates, {_shots} defective images of a type. Every figure is of validation, to which the spare defective images '
    'went; the decision is fitted on the same images, in all arms alike. `wide` has the usual augmentation, the other '
    'arms that of `steady.py`.'
)
factor = dict(name='memory', keys=['*normality*', '*Normality*', '*neck*', '*synthesis*', '*sampler*', '*pipeline*'])
val_interval = 500
seeds = [0, 1, 2, 3, 4]
metrics = ['any_AP', 'AUPRO30', 'cal_any_IoU', 'image_AUROC', 'cRecall', 'FA_images']
overrides = {**_few['overrides'], 'split_file': f'dev_{_shots}_{{seed}}.json', 'test_dataloader.dataset.split': 'val'}
_half = {'train_dataloader.sampler': _half}
_steady, _bank = 'configs/_base_/steady.py', 'configs/_base_/normality/bank.py'
_pastes = f'configs/_base_/synthesis/{_recipe}.py'
arms = dict(
    plain=dict(bases=[_steady], overrides=_half),
    bank=dict(bases=[_bank], overrides=_half),
    pastes=dict(bases=[_pastes, _steady]),
    both=dict(bases=[_pastes, _bank]),
    wide=dict(overrides=_half, priority=2),
    bank_all_levels=dict(bases=[_bank], overrides={**_half, 'normality.levels': [0, 1, 2]}, priority=2),
    bank_wide=dict(bases=[_bank], overrides={**_half, 'augmentation': dict(_delete_=True)}, priority=2),
    bank_256=dict(bases=[_bank], overrides={**_half, 'normality.entries': 256}, priority=3),
)
pairs = [('plain', 'bank'), ('pastes', 'both'), ('wide', 'bank_wide')]
