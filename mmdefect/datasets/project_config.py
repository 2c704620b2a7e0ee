"""The text of the leaf configs that a new project starts from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmdefect.datasets.census import Census


@dataclass(frozen=True)
class Leaf:
    """One leaf config of a project.

    Attributes:
        model, loss, schedule: names of the bases.
        says: what it is, for its first line.
        tuned: with the crop, the class weights and, where images are few, the pasted defects that the census suggests.
        focal: class weights are the ``alpha`` of a focal loss instead of ``class_weight``.
        batch_size: images of an update; 0 leaves it to the data base.
        options: further lines.
    """

    model: str
    loss: str
    schedule: str
    says: str
    tuned: bool = True
    focal: bool = False
    batch_size: int = 0
    options: tuple[str, ...] = ()


#: Leaf configs by file name; the first two start from random weights and need nothing but the images.
LEAVES = {
    'fast-scnn_baseline.py': Leaf(
        'fast_scnn', 'ce', 'schedule_2k', 'plain cross entropy, to compare with.', tuned=False
    ),
    'fast-scnn_recommended.py': Leaf(
        'fast_scnn', 'ce', 'schedule_2k', 'what the census suggests; compare it with fast-scnn_baseline.py.'
    ),
    'fpn-r18-frozen_recommended.py': Leaf(
        'fpn_r18-l3_frozen',
        'focal',
        'schedule_1500',
        'a head on a frozen ImageNet backbone, the quickest start with few images.',
        focal=True,
        batch_size=4,
        options=(
            "# ImageNet weights are downloaded; without the internet name a file with torchvision's names:",
            "# model = dict(backbone=dict(init_cfg=dict(checkpoint='resnet18.pth')))",
        ),
    ),
}

#: Images of the rarest class up to which defects are pasted, some ten of them in training: with so few, pastes helped or made
#: no difference; with more and at full size they did not help (docs/results/README.md).
FEW_IMAGES = 16


def render_config(name: str, data_root: str, classes: Sequence[str], census: Census, file: str) -> str:
    """Return a leaf config as text.

    Args:
        name: name of the project.
        data_root: folder of the data.
        classes: class names, the normal class first.
        census: its suggestions go into the tuned configs.
        file: one of :data:`LEAVES`.
    """
    leaf = LEAVES[file]
    height, width = census.median_size_hw
    crop_hw = census.suggestion.crop_size_hw
    pastes = leaf.tuned and min((c.images for c in census.classes if c.images), default=0) <= FEW_IMAGES
    crops = leaf.tuned and (crop_hw[0] < height or crop_hw[1] < width)
    bases = [
        f'models/{leaf.model}',
        'datasets/folder_256',
        f'losses/{leaf.loss}',
        f'schedules/{leaf.schedule}',
        'default_runtime',
        *['synthesis/paste_poisson'] * pastes,
        *['defect_crop'] * crops,
    ]
    lines = [
        f'# {name}: {leaf.says}',
        '_base_ = [',
        *(f"    'mmdefect::_base_/{base}.py'," for base in bases),
        ']',
        f'data_root = {data_root!r}',
        "split_file = '{{ fileDirname }}/split.json'",
        f'classes = {tuple(classes)!r}',
        f'image_scale = ({width}, {height})  # width, height: the median image, so that defects keep their size',
    ]
    if leaf.tuned:
        lines.append(f'crop_size = {crop_hw!r}  # height, width')
        suggestion = census.suggestion
        lines.append(
            f'loss_decode = dict(alpha={list(suggestion.focal_alpha)!r})'
            if leaf.focal
            else f'class_weight = {list(suggestion.class_weight)!r}'
        )
        if not pastes:
            lines.append(
                '# Pasted defects did not help with as many images as these: '
                "'mmdefect::_base_/synthesis/paste_poisson.py' has them."
            )
        elif census.clean == 0:
            lines += [
                '# There are no clean images: defects are pasted beside those that are there.',
                'synthesis = dict(ratio=dict(real=1, synthetic=1, clean=0), backgrounds=dict(clean=0, defective=1))',
            ]
    loader = [f'batch_size={leaf.batch_size}'] * bool(leaf.batch_size)
    if leaf.tuned and not pastes and 2 * census.clean > census.images:
        lines.append('# Most images have no defect: every second draw is one that has.')
        loader.append("sampler=dict(_delete_=True, type='MixingSampler', defective_share=0.5, shuffle=True)")
    if loader:
        lines.append(f'train_dataloader = dict({", ".join(loader)})')
    lines += leaf.options
    return '\n'.join([*lines, f"work_dir = 'work_dirs/{name}_{file.removesuffix('.py')}'"]) + '\n'
