"""Both distributions of OpenMMLab behave alike after ``compat.apply()``."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.runner import CheckpointLoader, Runner

from mmdefect import compat

ROOT = Path(compat.__file__).parents[1]


@pytest.fixture(autouse=True)
def applied():
    compat.apply()


def run_python(code: str, *search_path: Path) -> subprocess.CompletedProcess:
    paths = os.pathsep.join(str(p) for p in (*search_path, ROOT))
    return subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, 'PYTHONPATH': paths, 'OMP_NUM_THREADS': '1'},
    )


def write_distribution(folder: Path, name: str, version: str) -> None:
    """Write just enough metadata for ``importlib.metadata`` to call the distribution installed."""
    info = folder / f'{name.replace("-", "_")}-{version}.dist-info'
    info.mkdir(parents=True)
    (info / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n')


@pytest.mark.parametrize(
    'base, key, value',
    [
        ('mmseg::_base_/models/fast_scnn.py', 'model.backbone.type', 'FastSCNN'),
        ('mmdefect::_base_/models/fast_scnn.py', 'model.backbone.type', 'FastSCNN'),
        ('mmpretrain::_base_/models/resnet18.py', 'model.backbone.depth', 18),
    ],
)
def test_bases_resolve_by_module(tmp_path, base, key, value):
    path = tmp_path / 'leaf.py'
    path.write_text(f'_base_ = [{base!r}]\n')
    cfg = Config.fromfile(str(path))
    for part in key.split('.'):
        cfg = cfg[part]
    assert cfg == value


def test_applying_twice_wraps_once():
    first = Config._get_cfg_path
    compat.apply()
    assert Config._get_cfg_path is first


@pytest.mark.parametrize(
    'base, message',
    [
        ('mmseg::_base_/models/no_such_model.py', 'no_such_model.py does not exist'),
        ('mmdefect::_base_/models/no_such_model.py', 'no_such_model.py does not exist'),
    ],
)
def test_missing_base_is_named(tmp_path, base, message):
    path = tmp_path / 'leaf.py'
    path.write_text(f'_base_ = [{base!r}]\n')
    with pytest.raises(FileNotFoundError, match=message):
        Config.fromfile(str(path))


def test_config_root_of_a_missing_package_names_doctor():
    with pytest.raises(ModuleNotFoundError, match='doctor'):
        compat.config_root('mmdefect_no_such_package')


def test_config_root_of_a_package_without_configs(tmp_path, monkeypatch):
    (tmp_path / 'outer' / 'package_without_configs').mkdir(parents=True)
    (tmp_path / 'outer' / 'package_without_configs' / '__init__.py').touch()
    monkeypatch.syspath_prepend(tmp_path / 'outer')
    with pytest.raises(FileNotFoundError, match='reinstall'):
        compat.config_root('package_without_configs')


def test_two_distributions_of_one_module_are_rejected(tmp_path, monkeypatch):
    write_distribution(tmp_path, 'onedl-mmengine', '0.10.12')
    write_distribution(tmp_path, 'mmengine', '0.10.7')
    monkeypatch.syspath_prepend(tmp_path)
    assert compat.doubled_modules()['mmengine'].keys() == {'onedl-mmengine', 'mmengine'}
    with pytest.raises(RuntimeError, match='mmengine comes from onedl-mmengine and mmengine.*doctor'):
        compat.apply()


def test_one_distribution_for_each_module_is_installed_here():
    assert compat.doubled_modules() == {}
    assert len(compat.installed_distributions('mmseg')) == 1


def test_mmcv_2_2_passes_the_assert(tmp_path):
    """A fake pair of packages with the assert of mmsegmentation 1.2.2: the real mmcv 2.2 needs a compiler."""
    write_distribution(tmp_path, 'mmsegmentation', '1.2.2')
    for name, body in (
        ('mmcv', "__version__ = '2.2.0'\n"),
        ('mmseg', "import mmcv\nassert mmcv.__version__ < '2.2.0', 'version window'\n"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / '__init__.py').write_text(body)
    rejected = run_python('import mmseg', tmp_path)
    assert 'version window' in rejected.stderr
    accepted = run_python(
        'from mmdefect import compat; compat._accept_mmcv_2_2()\nimport mmseg, mmcv; print(mmcv.__version__)', tmp_path
    )
    assert accepted.stdout.strip() == '2.2.0', accepted.stderr


def test_registration_prints_nothing():
    code = (
        'from mmdefect import compat\ncompat.apply()\n'
        'with compat.quiet_imports():\n    import mmseg.datasets, mmseg.models'
    )
    result = run_python(code)
    assert (result.returncode, result.stdout, result.stderr) == (0, '', '')


def test_quiet_imports_keeps_what_matters(capsys):
    import mmengine.logging as mm_logging

    with compat.quiet_imports():
        mm_logging.print_log('a detail', level=10)
        mm_logging.print_log('a warning', level=30)
    mm_logging.print_log('outside', level=10)
    assert capsys.readouterr().out == 'a warning\noutside\n'


def test_imports_of_bases_are_joined(tmp_path):
    bases = ['mmseg::_base_/models/fpn_poolformer_s12.py', 'mmdefect::_base_/default_runtime.py']
    (tmp_path / 'middle.py').write_text(f'_base_ = {bases!r}\n')
    (tmp_path / 'leaf.py').write_text("_base_ = ['./middle.py']\ncustom_imports = dict(imports='json')\n")
    cfg = Config.fromfile(str(tmp_path / 'leaf.py'), import_custom_modules=False)
    names = ['mmpretrain.models', 'mmdefect.registration', 'json']
    assert cfg.custom_imports == dict(imports=names, allow_failed_imports=False)
    (tmp_path / 'none.py').write_text('a = 1\n')
    assert 'custom_imports' not in Config.fromfile(str(tmp_path / 'none.py'))


class TestMissingOps:
    """What is written in Python works, and what is compiled says how to get it."""

    @pytest.fixture(autouse=True)
    def without_ops(self):
        if compat.has_compiled_ops():
            pytest.skip('this mmcv brings its compiled operators')

    @staticmethod
    def head(kind: str, **kwargs):
        import mmdefect.registration  # noqa: F401
        from mmdefect.registry import MODELS

        return MODELS.build(dict(type=kind, in_channels=8, channels=8, num_classes=3, _scope_='mmseg', **kwargs)).eval()

    def test_operator_in_python_works(self):
        features = torch.rand(1, 8, 8, 8)
        assert self.head('CCHead')([features]).shape == (1, 3, 8, 8)

    def test_compiled_operator_says_what_to_install(self):
        head = self.head('PSAHead', mask_size=(3, 3))
        with pytest.raises(RuntimeError, match='psamask_forward.*docs/install.md.*PSANet'):
            head([torch.rand(1, 8, 8, 8)])

    def test_environment_report_says_not_available(self):
        from mmcv.utils import collect_env

        assert collect_env()['MMCV Compiler'] == 'n/a'


@pytest.mark.parametrize('avg_non_ignore', [False, True])
def test_weighted_cross_entropy_equals_torch(avg_non_ignore):
    compat.fix_mmseg()
    from mmseg.models.losses import CrossEntropyLoss

    generator = torch.Generator().manual_seed(0)
    logits, label = torch.randn(2, 3, 5, 4, generator=generator), torch.randint(0, 3, (2, 5, 4), generator=generator)
    label[:, :2] = 255
    loss = CrossEntropyLoss(class_weight=[0.2, 1.0, 2.0], avg_non_ignore=avg_non_ignore)
    expected = torch.nn.functional.cross_entropy(logits, label, torch.tensor([0.2, 1.0, 2.0]), ignore_index=255)
    torch.testing.assert_close(loss(logits, label, ignore_index=255), expected)


@pytest.mark.parametrize('swaps', [False, True])
def test_channel_conversion_has_one_name(swaps):
    compat.fix_mmseg()
    from mmseg.models import SegDataPreProcessor

    preprocessor = SegDataPreProcessor(mean=[0, 0, 0], std=[1, 1, 1], bgr_to_rgb=swaps, size=(2, 2))
    assert preprocessor._channel_conversion is swaps
    image = torch.arange(12, dtype=torch.uint8).reshape(3, 2, 2)
    from mmseg.structures import SegDataSample

    out = preprocessor(dict(inputs=[image], data_samples=[SegDataSample()]), training=True)['inputs'][0]
    assert torch.equal(out, image.flip(0).float() if swaps else image.float())


class OneWeight(BaseModel):
    """The smallest thing a Runner can train."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, inputs, data_samples=None, mode='tensor'):
        return dict(loss=(self.weight - 1).square().sum())


class Exploit:
    """Runs a command when it is unpickled without restriction."""

    def __reduce__(self):
        return os.system, ('exit 1',)


class PrivateAttribute:
    """Asks ``getattr`` for something that is no statistics method."""

    def __init__(self, owner, name):
        self.arguments = owner, name

    def __reduce__(self):
        return getattr, self.arguments


class TestCheckpointLoader:
    def test_values_survive(self, tmp_path):
        history = HistoryBuffer([1.0, 2.0, 4.0], [1, 1, 2])
        saved = dict(
            state_dict=dict(w=torch.arange(3.0)),
            message_hub=dict(loss=history),
            n=np.int64(7),
            lr=np.float64(0.5),
            table=np.arange(6, dtype=np.float32).reshape(2, 3),
            part=slice(1, 3),
            flag=np.bool_(True),
        )
        torch.save(saved, tmp_path / 'a.pth')
        loaded = compat.load_from_local(str(tmp_path / 'a.pth'), map_location='cpu')
        assert torch.equal(loaded['state_dict']['w'], torch.arange(3.0))
        assert loaded['message_hub']['loss'].mean() == history.mean() == 7 / 4
        assert (loaded['lr'], loaded['n'], loaded['part'], bool(loaded['flag'])) == (0.5, 7, slice(1, 3), True)
        np.testing.assert_array_equal(loaded['table'], saved['table'])

    @pytest.mark.parametrize(
        'content', [Exploit(), PrivateAttribute(HistoryBuffer, '__init__'), PrivateAttribute(torch.Tensor, 'apply_')]
    )
    def test_anything_else_is_rejected(self, tmp_path, content):
        torch.save(dict(state_dict={}, meta=content), tmp_path / 'a.pth')
        with pytest.raises((pickle.UnpicklingError, ValueError)):
            compat.load_from_local(str(tmp_path / 'a.pth'))

    def test_missing_file(self, tmp_path):
        with pytest.raises(FileNotFoundError, match='none.pth'):
            compat.load_from_local(str(tmp_path / 'none.pth'))

    def test_safety_elsewhere_is_untouched(self, tmp_path):
        torch.save(HistoryBuffer([1.0], [1]), tmp_path / 'a.pth')
        compat.load_from_local(str(tmp_path / 'a.pth'))
        with pytest.raises(pickle.UnpicklingError):
            torch.load(tmp_path / 'a.pth')

    def test_runner_resumes_its_own_checkpoint(self, tmp_path):
        def runner(iterations: int, **kwargs) -> Runner:
            return Runner(
                model=OneWeight(),
                work_dir=str(tmp_path),
                experiment_name=f'toy{iterations}',
                train_dataloader=dict(
                    dataset=[torch.zeros(1)] * 4,
                    batch_size=1,
                    num_workers=0,
                    sampler=dict(type='InfiniteSampler', shuffle=False),
                ),
                train_cfg=dict(by_epoch=False, max_iters=iterations),
                default_scope='mmseg',
                optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9)),
                **kwargs,
            )

        first = runner(3)
        first.train()
        second = runner(5, resume=True)
        second.train()
        assert second.iter == 5
        assert second.message_hub.get_scalar('train/loss').data[0].size == 5
        assert CheckpointLoader.load_checkpoint(str(tmp_path / 'epoch_2.pth'))['meta']['iter'] == 5
