"""Trainings with memories of good parts: who is compared with whom, refreshing, resuming, averaging, two ranks."""

import hashlib
from pathlib import Path

import pytest
import torch

from mmdefect.apis import train
from mmdefect.engine.hooks import NormalityHook
from mmdefect.engine.hooks.model_hooks import unwrapped
from tests.helpers.data import write_wta
from tests.helpers.ranks import run_two_ranks
from tests.helpers.small import quick_options

REPO = Path(__file__).resolve().parents[2]
LEAF = REPO / 'configs/fast_scnn/fast-scnn_baseline_2k_wta-256.py'
QUICK = {**quick_options(4, image_scale=(120, 96)), 'normality.entries': 64}
MEMORIES = 'memories.'


def digest_of_memories(neck) -> str:
    """Return a digest of what the memories of a neck hold."""
    values = [v.numpy().tobytes() for k, v in sorted(neck.state_dict().items()) if MEMORIES in k or k == 'chosen']
    return hashlib.sha256(b''.join(values)).hexdigest()


@pytest.fixture(scope='module')
def data_root(tmp_path_factory):
    root = tmp_path_factory.mktemp('data')
    write_wta(root, dict(train=9, val=3, test=3), size_hw=(96, 120))
    return root


@pytest.fixture
def run(data_root, tmp_path, monkeypatch):
    monkeypatch.setenv('MMDEFECT_CACHE', str(tmp_path / 'cache'))

    def _run(recipes=('bank',), resume=False, name='run', **options):
        options = {'data_root': str(data_root), **QUICK, **options}
        return train(LEAF, work_dir=tmp_path / name, cfg_options=options, recipes=list(recipes), resume=resume)

    return _run


def test_samples_are_not_compared_with_their_own_image(run, monkeypatch):
    seen = []
    before = NormalityHook.before_train_iter

    def record(self, runner, batch_idx, data_batch=None):
        before(self, runner, batch_idx, data_batch)
        for sample, owner in zip(data_batch['data_samples'], self.neck.owners.tolist(), strict=True):
            clean = int(Path(sample.img_path).name[1:5]) % 3 == 0
            seen.append((clean, owner))
            assert (owner >= 0) == clean and (not clean or self.infos[owner]['img_path'] == sample.img_path)

    monkeypatch.setattr(NormalityHook, 'before_train_iter', record)
    runner = run(['bank', 'paste_poisson'], **{'synthesis.ratio': dict(real=0.4, synthetic=0.3, clean=0.3)})
    neck = unwrapped(runner).neck
    assert {clean for clean, _ in seen} == {True, False}
    assert neck.owners is None and neck.used == 'bank'
    assert set(neck.memories['bank']['1'].owned.tolist()) == {0, 1, 2}  # three of nine images are good
    assert all(float(p[-1].weight.abs().sum()) > 0 for p in neck.projections.values())  # they learn


@pytest.mark.slow
def test_memories_follow_a_trained_backbone(run):
    fixed = run(name='fixed')
    refreshed = run(name='refreshed', **{'normality.interval': 2})
    assert digest_of_memories(unwrapped(fixed).neck) != digest_of_memories(unwrapped(refreshed).neck)


@pytest.mark.slow
def test_a_resumed_run_keeps_its_memories(run, tmp_path):
    first = unwrapped(run(**{'default_hooks.checkpoint.interval': 2})).neck
    (tmp_path / 'run' / 'last_checkpoint').write_text(str(tmp_path / 'run' / 'iter_2.pth'))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NormalityHook, '_fill', lambda *_: pytest.fail('filled again'))
        second = unwrapped(run(resume=True, **{'default_hooks.checkpoint.interval': 2})).neck
    assert digest_of_memories(first) == digest_of_memories(second)


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['place', 'auto'])
def test_other_kinds_train_with_averaged_weights_and_the_checkpoint_holds_one_memory(run, tmp_path, kind):
    neck = unwrapped(run([kind, 'ema'])).neck
    checkpoint = torch.load(tmp_path / 'run' / 'iter_4.pth', map_location='cpu', weights_only=False)
    for state in ('state_dict', 'ema_state_dict'):
        kinds = {key.split(MEMORIES)[1].split('.')[0] for key in checkpoint[state] if MEMORIES in key}
        assert kinds == {neck.used}


@pytest.mark.slow
def test_two_ranks_hold_the_same(data_root, tmp_path):
    first, second = run_two_ranks('tests.integration.normality_ranks', tmp_path, data_root)
    assert first == second and first['used'] == 'bank' and first['projection'] > 0
