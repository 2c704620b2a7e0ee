"""The text of the leaf configs that a new project starts from."""

from __future__ import annotations

from collections.abc import Sequence

from mmdefect.datasets.census import Census

#: Leaf configs of a project: file name, and whether it is the recommended recipe.
CONFIG_NAMES = {'fast-scnn_baseline.py': False, 'fast-scnn_recommended.py': True}
BASES = (
    'mmdefect::_base_/models/fast_scnn.py',
    'mmdefect::_base_/datasets/folder_256.py',
    'mmdefect::_base_/losses/ce.py',
    'mmdefect::_base_/schedules/schedule_2k.py',
    'mmdefect::_base_/default_runtime.py',
)
#: Further bases of the recommended recipe, after the ones above.
RECOMMENDED_BASES: tuple[str, ...] = ('mmdefect::_base_/synthesis/paste_poisson.py', )


def render_config(name: str, data_root: str, classes: Sequence[str], census: Census, recommended: bool) -> str:
    """Return a leaf config as text.

    Args:
        name: name of the project.
        data_root: folder of the data.
        classes: class names, the normal class first.
        census: its suggestions go into the recommended config.
        recommended: with the suggested crop and class weights, or plain cross entropy with the crop of the base.
    """
    bases = BASES + (RECOMMENDED_BASES if recommended else ())
    height, width = census.median_size_hw
    recipe = 'recommended' if recommended else 'baseline'
    lines = [
        f'# {name}: ' + ('what the census suggests; compare it with fast-scnn_baseline.py.' if recommended else
                         'plain cross entropy, to compare with.'),
        '_base_ = [', *(f'    {base!r},' for base in bases), ']',
        f'data_root = {data_root!r}',
        "split_file = '{{ fileDirname }}/split.json'",
        f'classes = {tuple(classes)!r}',
        f'image_scale = ({width}, {height})  # width, height: the median image, so that defects keep their size',
    ]
    if recommended:
        lines += [f'crop_size = {census.suggestion.crop_size_hw!r}  # height, width',
                  f'class_weight = {list(census.suggestion.class_weight)!r}']
        if census.clean == 0:
            lines += ['# There are no clean pictures: defects are pasted beside those that are there.',
                      'synthesis = dict(ratio=dict(real=1, synthetic=1, clean=0), '
                      'backgrounds=dict(clean=0, defective=1))']
    return '\n'.join([*lines, f"work_dir = 'work_dirs/{name}_fast-scnn_{recipe}'"]) + '\n'
