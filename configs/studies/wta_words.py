"""The choice of words of the prompt-edit system: one packed set for each word, against the original data."""

_base_ = '_base_/wta_fast-scnn.py'
name = 'words'
title = 'Which word makes edits worth training on?'
text = (
    'One generated set for each word that the prompt edit puts in place of `crack`, relabelled and packed into '
    'data/generated/words/WORD. `python tools/generate.py compare-words configs/studies/wta_words.py` applies the '
    'published rule to the records.'
)
factor = dict(name='word', keys=['train_dataloader.dataset*', 'train_dataloader.sampler*'])
metrics = ['fg_mIoU', 'fg_mAcc', 'IoU.attached', 'IoU.broken']
baseline = 'original'

_loss = 'configs/_base_/losses/focal_published.py'
_bases = [_loss, 'configs/_base_/datasets/generated.py']
arms = dict(
    original=dict(bases=[_loss], note='280 real images'),
    **{
        word: dict(
            bases=_bases, overrides={'generated.folder': f'data/generated/words/{word}'}, note=f'with edits to "{word}"'
        )
        for word in ('scratch', 'rust', 'peeling', 'corrosion', 'blistering', 'dent')
    },
)
