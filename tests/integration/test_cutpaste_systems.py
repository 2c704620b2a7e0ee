"""The systems of CutPaste and VisA, end to end: the commands of docs/coming_from.md, on demo data and real images."""

from __future__ import annotations

import csv
import math
import shlex
from collections import Counter
from pathlib import Path
from urllib.error import URLError

import cv2
import pytest
import torch
import torchvision
from mmengine.config import Config

from mmdefect.datasets.mvtec import find_categories
from mmdefect.datasets.split_file import read_split
from mmdefect.deployment import load_predictor
from mmdefect.deployment.decoding import read_image
from mmdefect.diffusion.support import read_support
from mmdefect.files import read_json
from mmdefect.models.anomaly_detector import AnomalyDetector
from tests.helpers.realdata import real_data
from tests.helpers.small import as_arguments, quick_options
from tests.integration.test_anogen_system import REPO, call

#: What makes a command of the page small enough to run here.
QUICK = (
    'train_cfg.val_interval=2 default_hooks.checkpoint.interval=2 train_dataloader.batch_size=2 '
    'train_dataloader.num_workers=0 train_dataloader.persistent_workers=False val_dataloader.num_workers=0 '
    'val_dataloader.persistent_workers=False image_scale=(64,64)'
)
LESS = {
    'run': f'--iters 2 --no-report --cfg-options {QUICK}',
    'fit': '--stride 32 --cfg-options image_scale=(64,64)',
    'explain': '',
}


def commands(title):
    """Return the commands of a section."""
    text = (REPO / 'docs' / 'coming_from.md').read_text(encoding='utf-8')
    block = text.split(f'\n## {title}\n')[1].split('\n## ')[0].split('```bash\n')[1].split('```')[0]
    return [shlex.split(line)[1:] for line in block.splitlines()]


def run_section(title, monkeypatch):
    """Run the commands of a section in the working directory, without a network."""

    def offline(*arguments, **_):
        raise URLError(f'there is no network here, but {arguments[0]} is asked for')

    monkeypatch.setattr('torch.hub.urlopen', offline)
    monkeypatch.setattr('mmengine.hub.hub.load_url', offline, raising=False)
    Path('configs').symlink_to(REPO / 'configs')
    for tool, *arguments in commands(title):
        small = '--images 40 --size 128' if 'make_demo' in tool else LESS.get(arguments[0], '')
        assert call(tool, [*arguments, *small.split()], monkeypatch) == 0, arguments


def table(path):
    with open(path, newline='', encoding='utf-8') as file:
        return list(csv.DictReader(file))


def decisions(path):
    """Return the decision of a test on each image, by its arm."""
    found = {}
    for row in table(path):
        found.setdefault(row['arm'], {})[row['image']] = row['anomaly'] == '1'
    return found


@pytest.mark.slow
def test_paddle_and_pytorch_cutpaste(tmp_path, monkeypatch):
    """All categories in one command; what is exported decides as it was tested; their weights go in, offline."""
    monkeypatch.chdir(tmp_path)
    Path('models').mkdir()
    net = torchvision.models.resnet18(weights=None)
    net.fc = torch.nn.Identity()
    theirs = {f'resnet18.{name}': value for name, value in net.state_dict().items()}
    theirs |= {'head.0.weight': torch.zeros(128, 512), 'out.weight': torch.zeros(3, 128), 'out.bias': torch.zeros(3)}
    torch.save(theirs, 'models/model-carpet.tch')
    run_section('CutPaste (paddle, pytorch-cutpaste)', monkeypatch)

    names = list(find_categories('data/demo/mvtec'))
    rows = table('work_dirs/cutpaste/table.csv')
    assert [r['category'] for r in rows if r['arm'] == 'CutPaste'] == [*names, 'average'] and len(names) == 3
    assert {'paper', 'paddle', 'Lieberk', 'pytorch-cutpaste'} <= rows[0].keys()
    for name in names:
        folder = Path('work_dirs/cutpaste/exp/categories') / name / 'test'
        tested = decisions(folder / 'scores.csv')['CutPaste']
        exported = {row['image']: row['anomaly'] == '1' for row in table(folder / 'predictions.csv')}
        with load_predictor(folder / f'{name}.onnx') as predictor:
            for image, anomaly in tested.items():
                assert predictor.predict_batch([read_image(image).pixels])[0].is_defective == anomaly == exported[image]
    detector = AnomalyDetector.load('detectors/carpet.pth')
    loaded = detector.features.backbone.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in net.state_dict().items())
    predicted = {str(Path(r['image'])): r['anomaly'] == '1' for r in table('predictions/predictions.csv')}
    with load_predictor('detectors/carpet.onnx') as predictor:
        deployed = {p: predictor.predict_batch([read_image(p).pixels])[0].is_defective for p in predicted}
    assert deployed == predicted and list(Path('deployed').rglob('*.json'))


@pytest.mark.slow
def test_lilit_yolyan_cutpaste(tmp_path, monkeypatch):
    """An encoder by name, weights of Lightning, heat maps of single patches, Grad-CAM; then a longer training."""
    monkeypatch.chdir(tmp_path)
    net = torchvision.models.resnet18(weights=None)
    state = {f'model.encoder.{n}': v for n, v in net.state_dict().items() if not n.startswith('fc.')}
    state |= {'model.head.0.weight': torch.zeros(512, 512), 'model.out.weight': torch.zeros(3, 128)}
    Path('tb_logs').mkdir()
    torch.save(dict(state_dict=state, hyper_parameters=dict(encoder='resnet18'), epoch=3), 'tb_logs/weights.ckpt')
    run_section('CutPaste (LilitYolyan)', monkeypatch)
    trained = AnomalyDetector.load('work_dirs/encoder/exp/categories/carpet/test/models/carpet_cutpaste.pth')
    assert trained.settings.backbone == dict(type='TorchvisionBackbone', name='shufflenet_v2_x1_0')
    detector = AnomalyDetector.load('detectors/carpet.pth')
    assert detector.mode == 'exact' and list(Path('cams').rglob('*.png'))
    loaded = detector.features.backbone.state_dict()
    assert all(torch.equal(loaded[n], v) for n, v in net.state_dict().items() if not n.startswith('fc.'))

    run = next(c for c in commands('CutPaste (LilitYolyan)') if c[1] == 'run')
    project, job = Path('work_dirs/encoder'), Path('work_dirs/encoder/exp/categories/carpet')
    before = read_json(job / 'state.json')
    again = [*run[1:], *LESS['run'].split()]
    assert call(run[0], again, monkeypatch) == 0 and read_json(job / 'state.json')['tests'] == before['tests']
    assert call(run[0], [*again, '--density', 'kde'], monkeypatch) == 0  # other settings repeat the test alone
    state = read_json(job / 'state.json')
    assert len(state['tests']) == 2 and len(state['attempts']) == 1
    assert call(run[0], [*again, '--density', 'kde', '--iters', '6'], monkeypatch) == 0
    state = read_json(job / 'state.json')
    assert [a['resumed_from'] for a in state['attempts']] == [0, 2] and state['best']['iter'] in (4, 6)
    saved = torch.load(job / 'train' / 'ckpt' / 'iter_4.pth', map_location='cpu', weights_only=False)
    rate = saved['optimizer']['param_groups'][0]['lr']  # not 0, at which the shorter training ended
    assert rate == pytest.approx(0.03 * (1 + math.cos(math.pi * 4 / 6)) / 2, rel=1e-4)
    assert table(project / 'table.csv')[-1]['category'] == 'average'
    with pytest.raises(ValueError, match='train_cfg.max_iters=6'):
        shorter = [*again, '--density', 'kde', '--iters', '4']
        monkeypatch.setenv('MMDEFECT_TRACEBACK', '1')
        call(run[0], shorter, monkeypatch)


@pytest.mark.slow
def test_macaroni1_as_downloaded(tmp_path, monkeypatch):
    """VisA by its official division: split, training, support set, detector."""
    root = str(real_data('visa_macaroni1'))
    monkeypatch.chdir(tmp_path)
    visa = ['--layout', 'visa', '--division', '2cls_highshot']
    assert call('tools/split_dataset.py', [root, *visa, '--protocol', 'given', '--out', 'split.json'], monkeypatch) == 0
    split = read_split('split.json')
    rows = table(Path(root, '2cls_highshot.csv'))
    assert {e.image for e in split.splits['test']} == {r['image'] for r in rows if r['split'] == 'test'}
    assert {e.image for part in ('train', 'val') for e in split.splits[part]} == {
        r['image'] for r in rows if r['split'] == 'train'
    }
    leaf = str(REPO / 'configs/fast_scnn/fast-scnn_baseline_2k_mvtec-256.py')
    options = {**quick_options(2), 'data_root': root, 'split_file': str(tmp_path / 'split.json')}
    arguments = [leaf, '--work-dir', 'run', '--cfg-options', *as_arguments(options)]
    assert call('tools/train.py', arguments, monkeypatch) == 0 and Path('run/iter_2.pth').is_file()
    support = ['support', root, *visa, '--k', '3', '--out', 'support']
    assert call('tools/generate.py', support, monkeypatch) == 0
    sources = {shot.source for shot in read_support(Path('support')).shots}
    assert len(sources) == 3 and sources <= {r['image'] for r in rows if r['split'] == 'train'}
    config = str(REPO / 'configs/cutpaste/resnet18-l3_3way-scratch_256_mvtec-256.py')
    evaluation = [config, '--data-root', root, '--division', '2cls_highshot', '--no-report', '--localize', 'fast']
    small = ['--cfg-options', 'image_scale=(64,64)', 'model.backbone.base_channels=8', 'model.backbone.stem_channels=8']
    assert call('tools/anomaly.py', ['eval', *evaluation, '--out', 'eval', *small], monkeypatch) == 0
    scores = table('eval/scores.csv')
    assert Counter(row['type'] for row in scores) == dict(good=90, anomaly=40)
    assert cv2.imread(scores[0]['image']) is not None and Config.fromfile(config).category is None
