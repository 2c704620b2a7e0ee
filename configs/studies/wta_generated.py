"""Do diffusion edits help a segmenter, and does it matter whose labels they carry?"""

_base_ = '_base_/wta_fast-scnn.py'
name = 'generation'
title = 'Diffusion edits with labels of their own, and with copied ones'
text = (
    'Fast-SCNN on the cutting inserts, with the loss and the budget of the loss study (its arm `focal_alpha` is the '
    'arm `original` here, so those runs are shared). The edits are 100 SDXL edits (null-text inversion, '
    'prompt-to-prompt) of training images. `copied` is the published setting: all edits, with the labels of their '
    'sources. `relabelled`: the edits that pass the checks, with labels from what changed (docs/relabel.md). Every '
    'fourth draw is an edit, whatever their number, and every arm has the same number of updates. The arm of priority '
    '2 tells the two steps apart: the accepted edits with copied labels. Packed sets: `bash/pack_wta_edits.sh`.'
)
factor = dict(name='generated images', keys=['train_dataloader.dataset*', 'train_dataloader.sampler*'])
baseline = 'original'

_loss = 'configs/_base_/losses/focal_published.py'
_generated = 'configs/_base_/datasets/generated.py'
_sets = 'data/generated/wta'
arms = dict(
    original=dict(bases=[_loss], note='280 real images'),
    relabelled=dict(
        bases=[_loss, _generated],
        overrides={'generated.folder': f'{_sets}/relabelled'},
        note='accepted edits, new labels',
    ),
    copied=dict(
        bases=[_loss, _generated],
        overrides={'generated.folder': f'{_sets}/copied'},
        note='all edits, labels of the sources',
    ),
    copied_accepted=dict(
        bases=[_loss, _generated],
        overrides={'generated.folder': f'{_sets}/copied_accepted'},
        priority=2,
        note='accepted edits, labels of the sources',
    ),
)
