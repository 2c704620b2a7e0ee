"""AnoGen, end to end: the commands of docs/coming_from.md on files in the formats of AnoGen, made tiny."""

from __future__ import annotations

import hashlib
import json
import runpy
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from PIL import Image

import mmdefect.registration  # noqa: F401
from mmdefect.diffusion.images import read_image, read_mask, write_image
from mmdefect.diffusion.manifest import Manifest
from mmdefect.diffusion.masks import read_list
from mmdefect.diffusion.pack import read_pack
from mmdefect.registry import DATASETS
from tests.diffusion.compvis_format import build_tiny, write_checkpoint, write_embeddings
from tests.helpers.data import write_mvtec
from tests.helpers.small import as_arguments, quick_options

REPO = Path(__file__).resolve().parents[2]
TYPES = dict(broken_large=True, broken_small=False, contamination=True)  # and whether boxes are turned
SMALL = '--resolution 32 32 --device cpu'
#: What makes a command of the page small enough to run here.
LESS = {
    'masks': '--count 3 --size 40 56',
    'learn': f'{SMALL} --steps 3 --batch-size 2 --preview-steps 2',
    'sample': f'{SMALL} --steps 2',
}


def commands():
    """Return the commands of the section of AnoGen."""
    section = (REPO / 'docs' / 'coming_from.md').read_text(encoding='utf-8').split('\n## AnoGen\n')[1].split('\n## ')[0]
    block = section.split('```bash\n')[1].split('```')[0]
    return [shlex.split(line)[1:] for line in block.splitlines()]


def call(tool, arguments, monkeypatch):
    """Run a tool as the command line does, in this process."""
    monkeypatch.setattr('sys.argv', [tool, *arguments])
    try:
        runpy.run_path(str(REPO / tool), run_name='__main__')
    except SystemExit as stop:
        return stop.code or 0
    return 0


def write_their_files(root):
    """Write what an owner of AnoGen has, and MVTec AD."""
    random, pipeline, theirs = np.random.default_rng(0), build_tiny(), root / 'DIFFUSION'
    write_mvtec(root / 'data' / 'mvtec', dict(bottle=tuple(TYPES)), per_type=12)
    write_checkpoint(theirs / 'models' / 'ldm' / 'text2img-large' / 'model.ckpt', pipeline)
    pipeline.tokenizer.save_pretrained(theirs / 'bert-base-uncased')
    rows = {name: [[0.2, 0.3], [0.2, 0.3], str(turned)] for name, turned in TYPES.items()}
    (theirs / 'utils_scripts').mkdir()
    (theirs / 'utils_scripts' / 'mvtec_range.json').write_text(json.dumps(dict(bottle=rows)))
    for name in TYPES:
        disc = np.hypot(*(np.mgrid[:64, :64] - 31.5)) < 31
        write_image(
            theirs / 'images' / 'mask_template' / 'bottle' / name / 'mask.png', np.dstack([disc * np.uint8(255)] * 3)
        )
        write_embeddings(theirs / 'logs' / f'bottle_{name}' / 'embeddings.pt', torch.randn(1, 40))
        folder = theirs / 'anomaly_mvtec' / 'bottle'
        area = np.zeros((32, 32), bool)
        area[8:20, 5:15] = True
        write_image(folder / 'masks' / f'017-{name}.png', area)
        (folder / 'images').mkdir(exist_ok=True)
        for number in range(2):
            image = Image.fromarray(random.integers(0, 255, (32, 32, 3)).astype(np.uint8))
            image.save(folder / 'images' / f'001-017-{number:04d}-{name}.png', format='JPEG')


@pytest.mark.slow
def test_from_their_files_to_a_training_on_weak_boxes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_their_files(tmp_path)
    for tool, *arguments in commands():
        if tool == 'tools/train.py':
            (tmp_path / 'configs').symlink_to(REPO / 'configs')
            arguments += as_arguments({**quick_options(2), 'loss_decode.warmup': 1})
        assert call(tool, [*arguments, *LESS.get(arguments[0], '').split()], monkeypatch) == 0, arguments

    entries = read_list('masks/bottle')
    assert {e.defect_type for e in entries} == set(TYPES)
    assert all((e.box['degrees'] > 0) == TYPES[e.defect_type] for e in entries)
    sets = {name: Manifest(f'generated/{name}').records() for name in ('own', 'theirs')}
    assert len(sets['own']) == len(sets['theirs']) == 4 * 3 * 2 * 2  # images, types, masks of each, samples of each
    for name, records in sets.items():
        for record in records:
            source, photo = read_image(record.source), read_image(f'generated/{name}/{record.image}')
            mask = read_mask(f'generated/{name}/{record.mask}')
            assert (source[~mask] == photo[~mask]).all() and (source[mask] != photo[mask]).any()
            assert record.prompt == f'<{record.defect_type}>'
    pairs = zip(*([read_image(f'generated/{name}/{r.image}') for r in sets[name]] for name in sets), strict=True)
    assert any((first != second).any() for first, second in pairs), 'each set follows its own tokens'
    tokens = Manifest('generated/theirs').settings()['tokens']
    for name in TYPES:
        file = Path(f'DIFFUSION/logs/bottle_{name}/embeddings.pt')
        assert tokens[name] == hashlib.sha256(file.read_bytes()).hexdigest()

    init_default_scope('mmseg')
    for name, size in (('own', (40, 56)), ('theirs', (32, 32))):
        packed = read_pack(Path('data/generated') / name)
        data = DATASETS.build(
            dict(
                type='GeneratedDefectDataset',
                folder=f'data/generated/{name}',
                pipeline=[dict(type='LoadImageFromFile'), dict(type='LoadDefectAnnotations')],
            )
        )
        assert len(data) == len(packed.images) == (48 if name == 'own' else 6)
        sample = data[0]
        assert sample['gt_seg_map'].shape == size and sample['gt_seg_map'].max() == 1
        assert ((sample['gt_seg_map'] == 1) == (sample['gt_box_map'] == 1)).all()
    assert Path('work_dirs/boxes/iter_2.pth').is_file()
