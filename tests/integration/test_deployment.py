"""From a training to the line with the tools alone: train, predict, export, predict without PyTorch, serve, look."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from mmdefect.deployment import load_predictor
from mmdefect.deployment.decoding import read_image
from mmdefect.experiments.acceptance import read_parts
from mmdefect.extras import MODULES
from mmdefect.functional.parts import PartRule
from tests.deployment.server.stand_in_server import ServerProcess
from tests.helpers.browser import Browser, find_chromium
from tests.helpers.small import as_arguments, quick_options

for package in (*MODULES['serve'], 'onnx', 'onnxruntime'):
    pytest.importorskip(package)

pytestmark = pytest.mark.slow
REPO = Path(__file__).resolve().parents[2]
LEAF = 'configs/fast_scnn/fast-scnn_baseline_demo.py'
#: Enough for a network that sees something, on one core in a quarter of a minute.
QUICK = [*as_arguments(quick_options(60, (128, 128), (128, 128), batch_size=4)), 'param_scheduler.0.end=60']
#: Stands in the way of an import of PyTorch or OpenMMLab.
NO_TORCH = "import sys; sys.modules.update(dict.fromkeys(('torch', 'torchvision', 'mmengine', 'mmcv', 'mmseg')))\n"


def tool(name: str, *arguments, status: int = 0) -> str:
    command = [sys.executable, f'tools/{name}.py', *map(str, arguments)]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True, timeout=300)
    assert done.returncode == status, done.stdout[-1000:] + done.stderr[-2000:]
    return done.stdout


def records(folder: Path) -> dict[str, dict]:
    lines = (folder / 'predictions.jsonl').read_text().splitlines()
    return {Path(record['image']).name: record for record in map(json.loads, lines)}


def labels(folder: Path) -> dict[str, np.ndarray]:
    return {path.stem: np.asarray(Image.open(path)) for path in sorted((folder / 'labels').rglob('*.png'))}


@pytest.fixture(scope='module')
def line(tmp_path_factory):
    """Everything up to the files that a plant gets: images, predictions of the checkpoint, the exported file."""
    root = tmp_path_factory.mktemp('line')
    tool('make_demo_data', root / 'data', '--layout', 'wta', '--images', 40, '--size', 128)
    data = next(path.parent for path in (root / 'data').rglob('img_dir'))
    tool('train', LEAF, '--work-dir', root / 'run', '--cfg-options', f'data_root={data}', *QUICK)
    checkpoint = root / 'run' / 'iter_60.pth'
    images = data / 'img_dir' / 'test'
    tool('predict', checkpoint, images, '--out', root / 'checkpoint', '--min-area', 4)
    tool('export', checkpoint, root / 'model.onnx', '--check', images)
    return root, images


@pytest.fixture(scope='module')
def runtime(line):
    """What the exported file predicts where there is no PyTorch."""
    root, images = line
    arguments = [str(root / 'model.onnx'), str(images), '--out', str(root / 'runtime'), '--min-area', '4']
    code = NO_TORCH + f'sys.argv[1:] = {arguments}\n'
    code += "import runpy; runpy.run_path('tools/predict.py', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, '-c', code],
        cwd=REPO,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, 'PYTHONPATH': str(REPO)},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return root / 'runtime'


def test_the_exported_file_predicts_what_the_checkpoint_does(line, runtime):
    before, after = labels(line[0] / 'checkpoint'), labels(runtime)
    assert before.keys() == after.keys() and len(before) >= 4
    equal = np.mean([(before[name] == after[name]).mean() for name in before])
    assert equal >= 0.9999
    assert any(label.any() for label in after.values()), 'a network that sees nothing proves nothing'


def test_the_server_answers_what_the_tool_writes(line, runtime):
    root, images = line
    written, expected = records(runtime), labels(runtime)
    with ServerProcess([sys.executable, 'tools/serve.py', str(root / 'model.onnx'), '--port', '0']) as server:
        for path in sorted(images.iterdir()):
            data = path.read_bytes()
            status, _, body = server.ask('POST', '/predict?min_area_px=4', data, Content_Type='image/png')
            answer, record = json.loads(body), written[path.name]
            assert status == 200 and answer['is_defective'] == record['is_defective']
            assert answer['image_score'] == pytest.approx(record['image_score'], abs=1e-5)  # rounded in the file
            assert [d['box_xyxy'] for d in answer['defects']] == [d['box_xyxy'] for d in record['defects']]
            assert [d['area_px'] for d in answer['defects']] == [d['area_px'] for d in record['defects']]
            status, _, mask = server.ask('POST', '/predict?min_area_px=4&format=png', data)
            assert np.array_equal(np.asarray(Image.open(io.BytesIO(mask))), expected[path.stem])
        server.process.terminate()
        assert server.finish()[0] == 0


def test_every_part_has_one_verdict_wherever_it_is_decided(line, tmp_path):
    """By test, predictions of checkpoint and exported file, and the server, with a rule that tells parts apart."""
    root, images = line
    found = records(root / 'checkpoint').values()
    largest = [max((defect['area_px'] for defect in record['defects']), default=0) for record in found]
    checkpoint = torch.load(root / 'run' / 'iter_60.pth', map_location='cpu', weights_only=False)
    area = max(1, int(np.median(largest)))
    assert any(value < area for value in largest) and any(value >= area for value in largest)
    classes = list(checkpoint['meta']['dataset_meta']['classes'])
    rule = PartRule((area, area), basis='bad and good parts').to_dict()  # as the first test fits and stores one
    checkpoint['meta']['part_rule'] = {**rule, 'classes': classes, 'iter': 60}
    torch.save(checkpoint, tmp_path / 'ruled.pth')
    options = ['--cfg-options', f'data_root={images.parents[1]}', *QUICK]
    tool('test', LEAF, tmp_path / 'ruled.pth', '--work-dir', tmp_path / 'test', *options)
    tool('export', tmp_path / 'ruled.pth', tmp_path / 'ruled.onnx')
    parts = read_parts(tmp_path / 'test')
    tested = dict(zip((f'{name}.png' for name in parts.names), parts.rejected.tolist(), strict=True))
    verdicts = {}
    for kind in ('pth', 'onnx'):
        tool('predict', tmp_path / f'ruled.{kind}', images, '--out', tmp_path / kind)
        verdicts[kind] = {name: record['is_defective'] for name, record in records(tmp_path / kind).items()}
    with ServerProcess([sys.executable, 'tools/serve.py', str(tmp_path / 'ruled.onnx'), '--port', '0']) as server:
        answers = {p.name: json.loads(server.ask('POST', '/predict', p.read_bytes())[2]) for p in images.iterdir()}
    assert verdicts['pth'] == verdicts['onnx'] == {name: a['is_defective'] for name, a in answers.items()} == tested
    assert 0 < sum(tested.values()) < len(tested), 'a rule that tells nothing apart proves nothing'


def test_a_checkpoint_is_served_alike(line):
    root, images = line
    path = next(iter(sorted(images.iterdir())))
    command = [sys.executable, 'tools/serve.py', str(root / 'run' / 'iter_60.pth'), '--port', '0', '--device', 'cpu']
    with ServerProcess(command) as server:
        status, _, mask = server.ask('POST', '/predict?min_area_px=4&format=png', path.read_bytes())
        assert status == 200
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(mask))), labels(root / 'checkpoint')[path.stem])


@pytest.mark.skipif(find_chromium() is None, reason='no Chromium on the path; CHROMIUM may name it')
def test_the_page_shows_it(line, runtime, tmp_path):
    root, images = line
    written, expected = records(runtime), labels(runtime)
    name = max(expected, key=lambda stem: (expected[stem] > 0).sum())
    path = next(images.glob(f'{name}.*'))
    with (
        ServerProcess([sys.executable, 'tools/serve.py', str(root / 'model.onnx'), '--port', '0']) as server,
        Browser(find_chromium(), tmp_path / 'profile') as page,
    ):
        page.open(server.url + '/')
        page.wait('model !== null')
        page.run('$("area").value = 4')
        page.drop(path.name, path.read_bytes(), 'image/png')
        page.wait('answer !== null')
        shown = np.asarray(page.run('[...labels]')).reshape(expected[name].shape)
        assert np.array_equal(shown, expected[name])
        rows = page.run('[...document.querySelectorAll("tbody tr")].map(row => row.cells[2].textContent)')
        assert rows == [str(d['area_px']) for d in written[path.name]['defects']]
        page.run('$("area").value = 0; $("threshold").value = 0.05; $("threshold").dispatchEvent(new Event("input"))')
        at_once = page.run('[...labels]')
        page.wait('!$("table").classList.contains("stale")')
        assert np.mean(np.asarray(page.run('[...labels]')) == np.asarray(at_once)) >= 0.9999  # scores have 16 bits
        page.screenshot(tmp_path / 'page.png')
        assert cv2.imread(str(tmp_path / 'page.png')).std() > 5
        assert page.problems() == [] and page.hosts() == {f'127.0.0.1:{server.port}'}


def test_an_anomaly_detector_goes_the_same_way(tmp_path):
    """Fitted on good parts only, with a backbone that was never trained: fit, export, serve."""
    tool('make_demo_data', tmp_path / 'data', '--layout', 'mvtec', '--images', 40, '--size', 128)
    leaf = 'configs/cutpaste/resnet18-l3_3way-scratch_256_mvtec-256.py'
    tool(
        'anomaly',
        'fit',
        leaf,
        '--data-root',
        tmp_path / 'data' / 'mvtec',
        '--category',
        'carpet',
        '--localize',
        'fast',
        '--layers',
        'layer2',
        '--folds',
        2,
        '--out',
        tmp_path / 'detector.pth',
    )
    tool('export', tmp_path / 'detector.pth', tmp_path / 'detector.onnx')
    predictor = load_predictor(tmp_path / 'detector.onnx')
    masks, scores = [], []
    with ServerProcess([sys.executable, 'tools/serve.py', str(tmp_path / 'detector.onnx'), '--port', '0']) as server:
        assert json.loads(server.ask('GET', '/model')[2])['kind'] == 'anomaly'
        for path in sorted((tmp_path / 'data' / 'mvtec' / 'carpet' / 'test').rglob('*.png')):
            (expected,) = predictor.predict_batch([read_image(path).pixels], (0.4,))
            answer = json.loads(server.ask('POST', '/predict?threshold=0.4', path.read_bytes())[2])
            assert answer['defects'] == [defect.to_dict() for defect in expected.defects]
            assert answer['image_score'] == expected.image_score
            mask = server.ask('POST', '/predict?threshold=0.4&format=png', path.read_bytes())[2]
            masks.append(np.asarray(Image.open(io.BytesIO(mask))))
            assert np.array_equal(masks[-1], expected.label_map)
            scores.append(expected.image_score)
    assert len(scores) >= 5 and len(set(scores)) > 1 and any(mask.any() for mask in masks)
