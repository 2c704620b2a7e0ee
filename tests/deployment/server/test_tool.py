"""``tools/serve.py`` with an exported file, as a plant runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mmdefect.extras import MODULES
from tests.deployment.server.stand_in import INFO, predict
from tests.deployment.server.stand_in_server import ROOT, ServerProcess
from tests.deployment.server.upload_cases import encode, scene
from tests.helpers.tiny_onnx import write_tiny_model

for package in (*MODULES['serve'], 'onnx', 'onnxruntime'):
    pytest.importorskip(package)


@pytest.fixture(scope='module')
def model(tmp_path_factory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp('model') / 'tiny.onnx', INFO)


def command(*arguments) -> list[str]:
    return [sys.executable, 'tools/serve.py', *map(str, arguments)]


def test_predictions_of_an_exported_file_without_torch(model, tmp_path):
    token = tmp_path / 'token.txt'
    token.write_text('s3cret\n')
    arguments = (
        '--port',
        0,
        '--threads',
        1,
        '--tile',
        64,
        '--token-file',
        token,
        '--max-megapixels',
        0.05,
        '--max-regions',
        800,
    )
    with ServerProcess(command(model, *arguments)) as server:
        for seed, size in enumerate([(96, 128), (40, 50), (200, 210)]):  # the first and the last in tiles
            image = scene(seed, *size)
            status, _, body = server.ask(
                'POST', '/predict?min_area_px=3', encode(Image.fromarray(image), 'PNG'), Authorization='Bearer s3cret'
            )
            got, expected = json.loads(body)['defects'], predict(image, INFO.thresholds, 3).defects
            assert status == 200 and {tuple(d['box_xyxy']) for d in got} == {d.box_xyxy for d in expected}
        noise = np.full((90, 90, 3), 220, np.uint8)
        noise[::3, ::3] = 0
        status, _, body = server.ask(
            'POST', '/predict', encode(Image.fromarray(noise), 'PNG'), Authorization='Bearer s3cret'
        )
        assert status == 422 and json.loads(body)['reason'] == 'too_many_defects'
        assert server.ask('POST', '/predict', b'')[0] == 401
        large = encode(Image.new('RGB', (250, 201)), 'PNG')
        assert server.ask('POST', '/predict', large, Authorization='Bearer s3cret')[0] == 413
        mapped = Path(f'/proc/{server.process.pid}/maps')
        if mapped.is_file():
            assert 'libtorch' not in mapped.read_text() and 'onnxruntime' in mapped.read_text()
        server.process.terminate()
        assert server.finish() == (0, '')


def run(*arguments, **environment) -> tuple[int, str]:
    done = subprocess.run(
        command(*arguments), cwd=ROOT, capture_output=True, text=True, timeout=60, env={**os.environ, **environment}
    )
    return done.returncode, done.stderr.strip()


def test_mistakes_are_sentences(model, tmp_path):
    assert run(tmp_path / 'none.onnx')[0] == 2
    other = tmp_path / 'other.onnx'
    other.write_bytes(b'no model')
    mistakes = [
        ((model, '--device', 'cpu'), {}, 'leave these out'),
        ((other,), {}, 'ONNX Runtime can load'),
        ((model, '--queue', 0), {}, '`queue_size`'),
        ((model, '--token-file', tmp_path / 'none'), {}, 'none'),
        ((model,), {'MMDEFECT_TOKEN': 'a b'}, '`token` must'),
        ((model, '--host', 'no.such.host.invalid'), {}, 'must be able to listen'),
    ]
    for arguments, environment, words in mistakes:
        status, message = run(*arguments, **environment)
        assert status == 2 and message.splitlines()[-1].startswith('error: ') and words in message
        assert 'Traceback' not in message
