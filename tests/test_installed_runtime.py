"""The wheel in an environment of NumPy, OpenCV and onnxruntime alone predicts what the whole of it does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from email import message_from_bytes
from importlib import metadata
from pathlib import Path

import cv2
import pytest
from packaging.requirements import Requirement

from mmdefect.doctor.packages import OPENCV, installed_version
from tests.deployment.server.stand_in_server import ServerProcess
from tests.helpers.deployment import make_images, write_checkpoint
from tests.test_setup import sources, wheel  # noqa: F401  (fixtures)

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
SERVE = ('fastapi', 'prometheus-client', 'python-multipart', 'uvicorn')


def with_requirements(*names: str) -> set[str]:
    """Return these distributions and all that they ask for."""
    found, todo = set(), list(names)
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            for requirement in map(Requirement, metadata.requires(name) or ()):
                if requirement.marker is None or requirement.marker.evaluate({'extra': ''}):
                    todo.append(requirement.name)
    return found


def make_environment(root: Path, package: Path, distributions: set[str]) -> Path:
    """Make a virtual environment of links to what is installed here, so that no network is asked; return its folder
    bin."""
    venv.create(root, with_pip=False)
    site = next((root / 'lib').glob('python*/site-packages'))
    for name in distributions:
        distribution = metadata.distribution(name)
        for top in {Path(file).parts[0] for file in distribution.files} - {'..', '__pycache__'}:
            if not (site / top).exists():
                (site / top).symlink_to(distribution.locate_file(top))
    run(
        sys.executable,
        '-m',
        'pip',
        '--python',
        root / 'bin' / 'python',
        'install',
        '-q',
        '--no-deps',
        '--no-index',
        package,
    )
    return root / 'bin'


def run(*command: str | Path, status: int = 0, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    env = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'VIRTUAL_ENV')}
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, timeout=300, env=env)
    assert done.returncode == status, done.stdout[-1000:] + done.stderr[-2000:]
    return done


@pytest.fixture(scope='module')
def packages():
    pytest.importorskip('onnxruntime')
    opencv = next(name for name in OPENCV if installed_version(name))
    return with_requirements('numpy', opencv, 'onnxruntime')


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    """A checkpoint and its exported file."""
    pytest.importorskip('onnx')
    from mmdefect.deployment import load_predictor
    from mmdefect.inference.export import export_model

    folder = tmp_path_factory.mktemp('model')
    checkpoint = write_checkpoint(folder / 'iter_7.pth', options=dict(crop_size=(64, 64), image_scale=(64, 64)))
    predictor = load_predictor(checkpoint)
    return checkpoint, export_model(predictor.network, predictor.info, folder / 'model.onnx')


@pytest.fixture(scope='module')
def images_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('images_folder')
    for index, image in enumerate(make_images(5, 90, 120)):
        cv2.imwrite(str(folder / f'part_{index}.png'), image[..., ::-1])
    return folder


def test_the_wheel_asks_for_two_packages(wheel):  # noqa: F811
    with zipfile.ZipFile(wheel) as archive:
        name = next(n for n in archive.namelist() if n.endswith('.dist-info/METADATA'))
        required = message_from_bytes(archive.read(name)).get_all('Requires-Dist')
    plain, runtime = set(), set()
    for requirement in map(Requirement, required):
        if requirement.marker is None:
            plain.add(requirement.name)
        elif requirement.marker.evaluate({'extra': 'runtime'}):
            runtime.add(requirement.name)
    assert (plain, runtime) == ({'numpy', 'opencv-python'}, {'onnxruntime'})


def test_it_predicts_the_same_without_pytorch(wheel, packages, model, images_folder, tmp_path):  # noqa: F811
    checkpoint, exported = model
    line = make_environment(tmp_path / 'environment', wheel, packages)
    listed = run(
        line / 'python',
        '-c',
        'from importlib import metadata\nprint(*sorted(d.metadata["Name"] for d in metadata.distributions()))',
    ).stdout.split()
    assert set(listed) == {*packages, 'mmdefect'} and 'torch' not in listed
    options = ['--min-area', '5', '--threshold', 'broken=0.6', '--overlay']
    for folder, more in (('line', ()), ('side', ('--processes', '2'))):
        run(
            line / 'mmdefect',
            'predict',
            exported,
            images_folder,
            '--out',
            tmp_path / folder,
            *options,
            *more,
            '--fail-on-defect',
            status=3,
            cwd=tmp_path,
        )
    run(sys.executable, ROOT / 'tools' / 'predict.py', exported, images_folder, '--out', tmp_path / 'whole', *options)
    expected = {
        path.relative_to(tmp_path / 'whole'): path.read_bytes()
        for path in (tmp_path / 'whole').rglob('*')
        if path.is_file()
    }
    assert len(expected) == 14  # 5 label maps, 5 overlays, 3 tables, the settings
    for folder in ('line', 'side'):
        got = {
            path.relative_to(tmp_path / folder): path.read_bytes()
            for path in (tmp_path / folder).rglob('*')
            if path.is_file()
        }
        assert got == expected
    assert len(expected[Path('defects.csv')].splitlines()) > 5
    examined = run(line / 'mmdefect', 'doctor', cwd=tmp_path).stdout
    assert 'core (prediction of exported files)  works' in examined and 'mmdefect can run here.' in examined
    for command in (
        ['train', 'config.py'],
        ['predict', checkpoint, images_folder, '--out', tmp_path / 'none'],
        ['serve', exported],
    ):
        said = run(line / 'mmdefect', *command, status=2, cwd=tmp_path).stderr
        assert len(said.splitlines()) == 1 and "pip install 'mmdefect[" in said, said


def test_it_serves_without_pytorch(wheel, packages, model, images_folder, tmp_path):  # noqa: F811
    for name in SERVE:
        if installed_version(name) is None:
            pytest.skip(f'the extra serve is not installed: {name}')
    line = make_environment(tmp_path / 'environment', wheel, packages | with_requirements(*SERVE))
    run(
        line / 'python',
        '-c',
        'import sys\ntry:\n    import torch\nexcept ModuleNotFoundError:\n    sys.exit(7)',
        status=7,
    )
    run(sys.executable, ROOT / 'tools' / 'predict.py', model[1], images_folder, '--out', tmp_path / 'whole')
    records = map(json.loads, (tmp_path / 'whole' / 'predictions.jsonl').read_text().splitlines())
    with ServerProcess([str(line / 'mmdefect'), 'serve', str(model[1]), '--port', '0']) as server:
        for record in records:
            status, _, body = server.ask('POST', '/predict', Path(record['image']).read_bytes())
            answer = json.loads(body)
            assert status == 200 and answer['image_score'] == pytest.approx(record['image_score'], abs=1e-5)
            assert [d['area_px'] for d in answer['defects']] == [d['area_px'] for d in record['defects']]
        assert server.ask('GET', '/')[0] == server.ask('GET', '/metrics')[0] == 200
        server.process.terminate()
        assert server.finish()[0] == 0
