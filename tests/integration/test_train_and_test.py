"""The tools as a user calls them, on a tiny data set: train, resume, test, images, and the errors of bad input."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from torch.nn.functional import interpolate as resize

from mmdefect.apis import load_config, train
from mmdefect.apis import test as run_test
from mmdefect.inference.checkpoint import build_segmentor
from mmdefect.registry import TRANSFORMS
from tests.helpers.data import write_wta
from tests.helpers.small import as_arguments, quick_options

REPO = Path(__file__).resolve().parents[2]
LEAF = 'configs/fast_scnn/fast-scnn_baseline_2k_wta-256.py'
QUICK = as_arguments(quick_options(2))


def literal(text):
    try:
        return ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text


def tool(name, *arguments, options=()):
    command = [sys.executable, f'tools/{name}.py', *map(str, arguments), '--cfg-options', *QUICK, *options]
    return subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('wta')
    return root, write_wta(root)


@pytest.fixture(scope='module')
def trained(data, tmp_path_factory):
    work_dir = tmp_path_factory.mktemp('run')
    done = tool('train', LEAF, '--work-dir', work_dir, options=[f'data_root={data[0]}'])
    assert done.returncode == 0, done.stderr[-2000:]
    return work_dir


def test_training_logs_and_saves(trained):
    checkpoint = torch.load(trained / 'iter_2.pth', map_location='cpu', weights_only=False)
    assert tuple(checkpoint['meta']['dataset_meta']['classes']) == ('normal', 'attached', 'broken')
    assert checkpoint['state_dict']['decode_head.conv_seg.weight'].shape[0] == 3
    log = next(trained.glob('*/vis_data/scalars.json')).read_text()
    assert '"fg_mIoU"' in log and '"decode.loss_ce"' in log


@pytest.mark.skipif(torch.cuda.is_available(), reason='the switch acts on the CPU only')
def test_the_order_in_memory_changes_the_training_by_rounding_only(data, tmp_path):
    weights = {}
    for switch in (False, True):
        options = dict(
            option.split('=', 1) for option in [*QUICK, f'data_root={data[0]}', f'cpu_channels_last={switch}']
        )
        options = {key: literal(value) for key, value in options.items()} | {'randomness': dict(seed=0)}
        model = train(REPO / LEAF, tmp_path / str(switch), cfg_options=options).model
        weights[switch] = model.state_dict()
        kernel = model.backbone.learning_to_downsample.conv.conv.weight
        assert kernel.is_contiguous(memory_format=torch.channels_last) == switch
        assert (
            len(list((tmp_path / str(switch)).rglob('scalars.json'))) == 1
        )  # two runs of one process, each with its own
    for name, value in weights[False].items():
        torch.testing.assert_close(weights[True][name], value, atol=2e-3, rtol=1e-3)  # AdamW steps of 1e-6 .. 1e-3


def test_resuming_goes_on_from_the_checkpoint(data, trained, tmp_path):
    """A finished run may become longer; any other change is refused."""
    run = tmp_path / 'run'
    shutil.copytree(trained, run)
    (run / 'last_checkpoint').write_text(str(run / 'iter_2.pth'))
    resume = ('train', LEAF, '--work-dir', run, '--resume')
    for change in ('train_cfg.max_iters=1', 'optim_wrapper.optimizer.lr=0.5'):
        done = tool(*resume, options=[f'data_root={data[0]}', change])
        assert done.returncode == 2 and f'differs in {change.split("=")[0]}' in done.stderr, done.stderr[-500:]
    done = tool(*resume, options=[f'data_root={data[0]}', 'train_cfg.max_iters=4'])
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'resumed epoch: 0, iter: 2' in done.stdout + done.stderr
    assert torch.load(run / 'iter_4.pth', map_location='cpu', weights_only=False)['meta']['iter'] == 4


def test_testing_writes_label_maps_images_and_the_table(data, trained, tmp_path):
    root, labels = data
    done = tool(
        'test',
        LEAF,
        trained / 'iter_2.pth',
        '--work-dir',
        tmp_path,
        '--out',
        tmp_path / 'out',
        '--show-dir',
        tmp_path / 'show',
        options=[f'data_root={root}'],
    )
    assert done.returncode == 0, done.stderr[-2000:]
    names = {Path(p).name for p in labels if '/test/' in p}
    assert {p.name for p in (tmp_path / 'out').glob('*.png')} == names
    confusion = np.zeros((3, 3), int)
    for path, label in labels.items():
        if '/test/' in path:
            prediction = cv2.imread(str(tmp_path / 'out' / Path(path).name), cv2.IMREAD_UNCHANGED)
            assert prediction.shape == label.shape
            np.add.at(confusion, (label, prediction), 1)
    iou = np.diag(confusion) / (confusion.sum(0) + confusion.sum(1) - np.diag(confusion))
    printed = float(re.findall(r'\bfg_mIoU: ([\d.]+)', done.stdout + done.stderr)[-1])
    assert printed == pytest.approx(100 * iou[1:].mean(), abs=1e-3)
    sheet = cv2.imread(str(tmp_path / 'show' / 'sheet.png'))
    assert sheet is not None and sheet.shape[1] > 3 * 56
    assert {p.name for p in (tmp_path / 'show').glob('*.png')} == {*names, 'sheet.png'}
    curves = json.loads((tmp_path / 'curves.json').read_text())['classes']
    assert set(curves) == {'attached', 'broken'} and all(c['recall'][-1] == 1 for c in curves.values())


def test_test_time_augmentation_runs(data, trained, tmp_path):
    done = tool('test', LEAF, trained / 'iter_2.pth', '--work-dir', tmp_path, '--tta', options=[f'data_root={data[0]}'])
    assert done.returncode == 0, done.stderr[-2000:]
    assert 'fg_mIoU' in done.stdout + done.stderr


@pytest.mark.parametrize('image_scale', [(112, 80), (200, 80)], ids=['filled', 'not filled'])
def test_tiles_are_predicted_by_themselves(data, trained, tmp_path, image_scale):
    """Against the network on each quarter of the image, also where it is narrower than the scale of the config."""
    root, labels = data
    options = dict(quick_options(2, image_scale=image_scale), data_root=str(root))
    said = dict(out=tmp_path / 'out', cfg_options=options, decision='argmax', tile_split=2)
    run_test(REPO / LEAF, trained / 'iter_2.pth', tmp_path, **said)
    cfg = load_config(REPO / LEAF, options)
    init_default_scope('mmseg')
    model = build_segmentor(cfg)
    model.load_state_dict(torch.load(trained / 'iter_2.pth', weights_only=False)['state_dict'])
    steps = [
        TRANSFORMS.build(step) for step in cfg.test_dataloader.dataset.pipeline if 'Annotations' not in step['type']
    ]
    for path in (path for path in labels if '/test/' in path):
        sample = dict(img_path=str(root / path))
        for step in steps:
            sample = step(sample)
        batch = dict(inputs=[sample['inputs']], data_samples=[sample['data_samples']])
        inputs = model.data_preprocessor(batch)['inputs']
        assert inputs.shape[2:] == (80, 112)
        with torch.no_grad():
            quarters = [[model(inputs[:, :, r : r + 40, c : c + 56], mode='tensor') for c in (0, 56)] for r in (0, 40)]
            resized = [[resize(q, (40, 56), mode='bilinear') for q in row] for row in quarters]
            logits = resize(torch.cat([torch.cat(row, 3) for row in resized], 2), labels[path].shape, mode='bilinear')
        written = cv2.imread(str(tmp_path / 'out' / Path(path).name), cv2.IMREAD_UNCHANGED)
        assert (written == logits[0].argmax(0).numpy()).mean() > 0.999
    with pytest.raises(ValueError, match='`--tile-split` must be a number of tiles from 1 on, got 0'):
        run_test(REPO / LEAF, trained / 'iter_2.pth', tmp_path, **{**said, 'tile_split': 0})
    with pytest.raises(ValueError, match='`--tile-split` must stand alone, but is given with `--tta`'):
        run_test(REPO / LEAF, trained / 'iter_2.pth', tmp_path, **said, tta=True)


def one_sentence(done):
    assert done.returncode == 2, done.stderr[-2000:]
    lines = [line for line in done.stderr.splitlines() if line.startswith('error: ')]
    assert len(lines) == 1 and 'Traceback' not in done.stderr
    return lines[0]


def test_a_checkpoint_of_other_classes_is_refused(data, trained, tmp_path):
    path = tmp_path / 'other.pth'
    checkpoint = torch.load(trained / 'iter_2.pth', map_location='cpu', weights_only=False)
    checkpoint['meta']['dataset_meta']['classes'] = ('normal', 'dent', 'rust')
    torch.save(checkpoint, path)
    done = tool('test', LEAF, path, '--work-dir', tmp_path, options=[f'data_root={data[0]}'])
    assert "['normal', 'dent', 'rust']" in one_sentence(done)


@pytest.mark.parametrize(
    ('spoil', 'words'),
    [
        (lambda root: (root / 'ann_dir/train/[0001]top.png').unlink(), ('ann_dir/train/[0001]top.png',)),
        (
            lambda root: cv2.imwrite(str(root / 'ann_dir/val/[0001]top.png'), np.zeros((5, 7), np.uint8)),
            ('ann_dir/val/[0001]top.png',),
        ),
        (
            lambda root: cv2.imwrite(str(root / 'ann_dir/test/[0001]top.png'), np.full((40, 56), 9, np.uint8)),
            ('ann_dir/test/[0001]top.png', '9'),
        ),
        (
            lambda root: (root / 'img_dir/train/[0002]top.png').write_bytes(b'not an image'),
            ('img_dir/train/[0002]top.png',),
        ),
        (
            lambda root: (root / 'img_dir/test/[0000]top.png').write_bytes(
                (root / 'img_dir/train/[0000]top.png').read_bytes()
            ),
            ('img_dir/test/[0000]top.png', 'img_dir/train/[0000]top.png'),
        ),
    ],
    ids=[
        'missing mask',
        'mask of another size',
        'label outside the classes',
        'unreadable image',
        'image in two splits',
    ],
)
def test_bad_data_is_named_before_training_starts(tmp_path, spoil, words):
    write_wta(tmp_path / 'data')
    spoil(tmp_path / 'data')
    with pytest.raises(ValueError) as caught:
        train(REPO / LEAF, work_dir=tmp_path / 'run', cfg_options={'data_root': str(tmp_path / 'data')})
    assert all(word in str(caught.value) for word in words), caught.value
    assert not list((tmp_path / 'run').iterdir())


def test_a_wrong_data_root_is_one_sentence_of_the_tool(tmp_path):
    done = tool('train', LEAF, '--work-dir', tmp_path / 'run', options=[f'data_root={tmp_path / "nowhere"}'])
    assert 'nowhere' in one_sentence(done)
