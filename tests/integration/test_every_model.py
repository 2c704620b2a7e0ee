"""Every model folder of the installed mmseg trains a step on pasted images with the loss asked for, or says why not.

``python -m tests.integration.test_every_model`` writes what comes out into ``docs/models.md``.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from mmengine.utils import import_modules_from_strings
from torch import nn

from mmdefect import compat
from mmdefect.apis.compose import QUERY_HEADS, UPDATE_HEADS, iter_dicts, iter_heads, iter_transforms
from mmdefect.apis.config import load_config
from mmdefect.apis.train import fit_to_device, resolve_pretrained
from mmdefect.registry import DATASETS, MODELS
from tests.helpers.data import write_wta

ROOT, MMSEG = compat.config_root('mmdefect'), compat.config_root('mmseg')
PAGE = Path(__file__).parents[2] / 'docs' / 'models.md'
#: What a light config is called, the lightest first.
LIGHT = ('r18', 'b0', 's12', 'vit-t', 'mscan-t', 'swin-tiny', 'hr18s', 'stdc1', 'pcpvt-s', 'small', 'pidnet-s', '-slim')
LIGHT = (*LIGHT, 'deit-s16', 'd8-s_', 'r50', '')
FOLDERS = sorted(p.name for p in MMSEG.iterdir() if p.name != '_base_' and any(p.glob('*.py')))
CROP = 64
#: What a user reads where a model cannot be trained; packages that are not installed here are looked for.
REFUSED = {
    'vpd': 'DepthEstimator .* predicts depths',
    **({} if find_spec('mmdet') else {f'mask{n}former': 'needs the package mmdet .*pip install' for n in ('', '2')}),
    **({} if compat.has_compiled_ops() else {'psanet': 'needs the compiled operators of mmcv'}),
}
QUERIES = ('mask2former', 'maskformer', 'san')


def light_config(folder: str) -> str:
    names = sorted(path.name for path in (MMSEG / folder).glob('*.py'))
    return next(f'{folder}/{name}' for word in LIGHT for name in names if word in name)


def write_leaf(tmp: Path, folder: str) -> Path:
    bases = [str(ROOT / '_base_' / f'{b}.py') for b in ('datasets/wta_256', 'schedules/schedule_2k', 'default_runtime')]
    path = tmp / f'{folder}.py'
    own = "model = dict(decode_head=dict(type='FittedLRASPPHead'))\n" if folder == 'mobilenet_v3' else ''
    path.write_text(f"_base_ = {bases!r}\nmodel_from = 'mmseg::{light_config(folder)}'\n{own}")
    return path


def options(tmp: Path) -> dict:
    return {
        'data_root': str(tmp / 'data'), 'crop_size': (CROP, CROP), 'image_scale': (CROP, CROP), 'random_weights': True,
    }  # fmt: skip


def shrink(model) -> None:
    """Take few layers where a model counts them, and no weights."""
    for part in iter_dicts(model):
        for key in ('init_cfg', 'pretrained'):
            part.pop(key, None)
    backbone = model.get('backbone') or {}
    if backbone.get('num_layers') in (12, 24) and len(backbone.get('out_indices', ())) == 4:
        backbone.update(num_layers=4, out_indices=(0, 1, 2, 3))
    if backbone.get('depths') and backbone.type == 'SwinTransformer':
        backbone.depths = (1, 1, 1, 1)
    if backbone.get('type') == 'ResNeSt':
        backbone.depth = 50
    if model.get('text_encoder'):
        model.text_encoder.num_layers = 1
    for part in (model.get('decode_head') or {}).values() if isinstance(model.get('decode_head'), dict) else ():
        if isinstance(part, dict) and 'num_points' in part:
            part['num_points'] = 64


def built_losses(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield each loss of the built model that predicts classes, by the place of its head."""
    heads = [('decode_head', model.decode_head), ('auxiliary_head', getattr(model, 'auxiliary_head', None))]
    while heads:
        place, head = heads.pop(0)
        if isinstance(head, nn.ModuleList):
            heads = [(f'{place}.{i}', h) for i, h in enumerate(head)] + heads
            continue
        kind = type(head).__name__
        if hasattr(head, 'kernel_generate_head'):
            heads.insert(0, (f'{place}.kernel_generate_head', head.kernel_generate_head))
        elif kind in QUERY_HEADS:
            named = [getattr(head, 'loss_decode', None)] if not hasattr(head, 'loss_cls') else [head.loss_cls]
            losses = list(named[0]) if isinstance(named[0], nn.ModuleList) else named
            yield place, losses[0]
        elif head is not None and kind not in ('STDCHead', *UPDATE_HEADS):
            losses = list(head.loss_decode) if isinstance(head.loss_decode, nn.ModuleList) else [head.loss_decode]
            roles = {'PIDHead': (0, 1, 3), 'DDRHead': (0, 1)}.get(kind, range(len(losses)))
            for role in roles:
                yield from ((place, single) for single in getattr(losses[role], 'losses', [losses[role]]))


def make_batch(tmp: Path) -> tuple[dict, int]:
    """Return two images with pasted defects, and the number of those defects."""
    write_wta(tmp / 'data', dict(train=6, val=3, test=3), size_hw=(64, 64))
    leaf = ROOT / 'pidnet' / 'pidnet-s_baseline_40k_wta-256.py'  # its pipeline makes edges, which harm no other model
    sizes = {**options(tmp), 'synthesis.ratio': None, 'synthesis.probability': 1.0}
    cfg = load_config(leaf, sizes, ['paste_poisson'])
    for step in iter_transforms(cfg.train_dataloader.dataset.pipeline):
        if step['type'] == 'RandomResize':
            step['ratio_range'] = (1, 1)
    cfg.train_dataloader.dataset.pipeline[-1].meta_keys = ('img_shape', 'ori_shape', 'pad_shape', 'instances')
    init_default_scope('mmseg')
    data = DATASETS.build(cfg.train_dataloader.dataset)
    made = [data[index] for index in range(len(data))]
    pasted = [sample for sample in made if sample['data_samples'].metainfo.get('instances')]
    return pseudo_collate(pasted[:2]), len(pasted)


def try_model(folder: str, tmp: Path, batch: dict) -> dict:
    """Train one step and predict; return what is to be told."""
    recipe, asked = ('query_focal' if folder in QUERIES else 'focal'), 'SoftmaxFocalLoss'
    cfg = load_config(write_leaf(tmp, folder), options(tmp), [recipe])
    weights = weights_of(cfg.model)
    shrink(cfg.model)
    fit_to_device(cfg)
    assert resolve_pretrained(cfg) == []
    import_modules_from_strings(**cfg.custom_imports)
    init_default_scope('mmseg')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    if folder == 'san':  # mmseg's class has no weights to start from but those of CLIP
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.02)
    else:
        model.init_weights()
    losses = list(built_losses(model))
    assert losses and all(type(loss).__name__ == asked for _, loss in losses), losses
    heads = list(iter_heads(cfg))
    assert heads and all(head.num_classes == cfg.num_classes for head in heads)
    model.train()
    inputs = model.data_preprocessor(batch, training=True)
    value, logged = model.parse_losses(model(**inputs, mode='loss'))
    assert torch.isfinite(value), logged
    value.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
    model.eval()
    with torch.no_grad():
        inputs = model.data_preprocessor(batch, training=False)
        outputs = model.predict(inputs['inputs'], inputs['data_samples'])
    assert outputs[0].seg_logits.data.shape == (cfg.num_classes, CROP, CROP)
    kinds = ' + '.join(dict.fromkeys(head.type for head in heads))
    return dict(folder=folder, config=light_config(folder), heads=kinds, recipe=recipe, weights=weights)


def weights_of(model) -> str:
    found = re.findall(r"'(?:checkpoint|pretrained)': '([^']+)'", str(model.to_dict()))
    return ', '.join(dict.fromkeys(name.rsplit('/', 1)[-1] for name in found)) or 'none: starts at random'


@pytest.fixture(scope='module')
def pasted(tmp_path_factory):
    tmp = tmp_path_factory.mktemp('models')
    batch, count = make_batch(tmp)
    assert count >= 2
    return tmp, batch


@pytest.mark.slow
@pytest.mark.parametrize('folder', FOLDERS)
def test_a_folder_trains_with_the_loss_asked_for_or_says_why_not(folder, pasted):
    if folder in REFUSED:
        with pytest.raises((ValueError, RuntimeError, ModuleNotFoundError), match=REFUSED[folder]):
            try_model(folder, *pasted)
    else:
        row = try_model(folder, *pasted)
        assert f'| {folder} | `{row["config"]}` | {row["heads"]} |' in PAGE.read_text(), 'write docs/models.md again'


def test_the_page_has_every_folder():
    page = PAGE.read_text()
    assert [folder for folder in FOLDERS if f'| {folder} |' not in page] == []


def table(rows: list[dict]) -> str:
    """Return the table of ``docs/models.md``."""
    lines = ['| folder of mmseg | config tried | heads | loss | weights it starts from |', '|---|---|---|---|---|']
    for row in rows:
        name = f'| {row["folder"]} | `{row["config"]}` |'
        told = ' | '.join(row[key] for key in ('heads', 'recipe', 'weights')) if 'heads' in row else row['refused']
        lines.append(f'{name} {told} |' + ' | |' * ('heads' not in row))
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    rows, (above, _) = [], PAGE.read_text().split('| folder of mmseg')
    with tempfile.TemporaryDirectory() as name:
        batch, _ = make_batch(Path(name))
        for folder in FOLDERS:
            try:
                rows.append(try_model(folder, Path(name), batch))
            except (ValueError, RuntimeError, ModuleNotFoundError) as err:
                if folder not in REFUSED or not re.search(REFUSED[folder], str(err)):
                    raise
                rows.append(
                    dict(folder=folder, config=light_config(folder), refused=f'refused: {str(err).split(";")[0]}')
                )
    PAGE.write_text(above + table(rows))
