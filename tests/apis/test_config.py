"""Composition: one statement of a value reaches every place, and what comes out is a plain mmseg config."""

from __future__ import annotations

import pytest
from mmengine.config import Config

from mmdefect.apis.compose import compose, iter_heads
from mmdefect.apis.config import load_config
from mmdefect.compat import config_root
from mmdefect.recipes import find_recipe

LEAF = config_root('mmdefect') / 'fast_scnn' / 'fast-scnn_baseline_2k_wta-256.py'


def test_the_class_count_reaches_every_head_and_auxiliary_weights_are_kept():
    cfg = load_config(LEAF)
    heads = list(iter_heads(cfg))
    assert [h.num_classes for h in heads] == [3, 3, 3]
    assert [h.loss_decode.loss_weight for h in heads] == [1.0, 0.4, 0.4]
    assert all(h.loss_decode.use_sigmoid is False for h in heads)


def test_one_option_moves_all_data_sets():
    cfg = load_config(LEAF, {'data_root': '/somewhere'})
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        assert cfg[loader].dataset.data_root == '/somewhere'


def test_sizes_reach_preprocessor_and_pipelines():
    cfg = load_config(LEAF, {'crop_size': (128, 192), 'image_scale': (320, 200)})
    train, test = cfg.train_dataloader.dataset.pipeline, cfg.test_dataloader.dataset.pipeline
    assert cfg.model.data_preprocessor.size == (128, 192)
    assert [t.crop_size for t in train if 'crop_size' in t] == [(128, 192)]
    assert [t.scale for t in [*train, *test] if 'scale' in t] == [(320, 200)] * 2


@pytest.mark.parametrize(
    'loss',
    [
        dict(type='CrossEntropyLoss', loss_weight=2.0),
        [dict(type='CrossEntropyLoss', loss_weight=0.5), dict(type='DiceLoss', loss_weight=0.5)],
    ],
)
def test_composing_twice_changes_nothing(loss):
    cfg = load_config(LEAF)
    cfg.loss_decode = loss
    compose(cfg)
    once = cfg.to_dict()
    compose(cfg)
    assert cfg.to_dict() == once
    weights = [
        one['loss_weight']
        for h in iter_heads(cfg)
        for one in (h.loss_decode if isinstance(h.loss_decode, list) else [h.loss_decode])
    ]
    assert weights == ([2.0, 0.8, 0.8] if isinstance(loss, dict) else [0.5, 0.5, 0.2, 0.2, 0.2, 0.2])


def test_class_weights_reach_every_loss():
    cfg = load_config(LEAF, {'class_weight': [0.1, 1.0, 3.0]})
    assert all(h.loss_decode.class_weight == [0.1, 1.0, 3.0] for h in iter_heads(cfg))


def test_short_schedules_have_running_statistics_that_keep_up():
    def momenta(node):
        if isinstance(node, dict):
            own = [node.get('momentum')] if node.get('type') in ('BN', 'SyncBN') else []
            return own + [m for value in node.values() for m in momenta(value)]
        return [m for value in node for m in momenta(value)] if isinstance(node, (list, tuple)) else []

    assert set(momenta(load_config(LEAF).model)) == {0.1}
    long = LEAF.parent / 'fast-scnn_baseline_40k_wta-256.py'
    assert set(momenta(load_config(long).model)) == {0.01}


def test_class_names_give_the_count_and_contradictions_are_refused():
    cfg = load_config(LEAF.parents[1] / 'fast_scnn' / 'fast-scnn_baseline_2k_mvtec-256.py')
    cfg.classes = ['normal', 'a', 'b', 'c']
    with pytest.raises(ValueError, match='`num_classes` must be the number of `classes`, got 2'):
        compose(cfg)
    cfg.pop('num_classes')
    compose(cfg)
    assert [h.num_classes for h in iter_heads(cfg)] == [4, 4, 4]
    assert cfg.test_dataloader.dataset.metainfo.classes == ['normal', 'a', 'b', 'c']


def test_the_dump_is_a_plain_config_that_needs_no_bases(tmp_path):
    cfg = load_config(LEAF)
    cfg.dump(str(tmp_path / 'dumped.py'))
    assert Config.fromfile(str(tmp_path / 'dumped.py')).to_dict() == cfg.to_dict()


def test_a_missing_config_suggests_a_near_one():
    with pytest.raises(FileNotFoundError, match='did you mean .*fast-scnn_baseline_2k_wta-256'):
        load_config('configs/fast_scnn/fast_scnn_baseline_2k_wta256.py')


def test_a_text_does_not_take_the_place_of_settings():
    with pytest.raises(
        ValueError,
        match=r'`train_dataloader.sampler` is a table of settings \(type, shuffle\) and cannot become the text',
    ):
        load_config(LEAF, {'train_dataloader.sampler': "{'type':'DefaultSampler'}"})
    assert load_config(LEAF, {'train_dataloader.sampler': dict(type='DefaultSampler')}).train_dataloader.sampler.shuffle
    options = {'param_scheduler.1.end': 7, 'resume': 'x', 'model.new.key': 'y'}
    assert load_config(LEAF, options).param_scheduler[1].end == 7


@pytest.mark.parametrize(
    ('key', 'words'),
    [
        ('data_rot', 'has no `data_rot`; did you mean data_root'),
        ('nothing_like_it', 'has no `nothing_like_it`; the file that a training leaves'),
        ('train_cfg.max_iter', r'has no `train_cfg.max_iter`; did you mean train_cfg.max_iters\?$'),
        ('optim_wrapper.optimiser.lr', r'did you mean optim_wrapper.optimizer'),
    ],
)
def test_an_option_that_nothing_reads_is_refused(key, words):
    with pytest.raises(ValueError, match=words) as error:
        load_config(LEAF, {key: 5})
    assert '\n' not in str(error.value)


def test_a_shorter_training_has_the_whole_schedule():
    cfg, short = load_config(LEAF), load_config(LEAF, {'train_cfg.max_iters': 500})
    assert [(s.begin, s.end) for s in cfg.param_scheduler] == [(0, 100), (100, 2000)]
    assert [(s.begin, s.end) for s in short.param_scheduler] == [(0, 25), (25, 500)]
    own = load_config(LEAF, {'train_cfg.max_iters': 500, 'param_scheduler.1.end': 700})
    assert [(s.begin, s.end) for s in own.param_scheduler] == [(0, 100), (100, 700)]


def test_configs_of_other_projects_are_no_suggestion(tmp_path, monkeypatch):
    for folder, stem, project in (('fast', 'model_a', False), ('blades', 'model_b', True)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f'{stem}.py').write_text('')
        if project:
            (tmp_path / folder / 'split.json').write_text('{}')
    monkeypatch.setattr('mmdefect.compat.config_root', lambda name: tmp_path)
    with pytest.raises(FileNotFoundError, match='did you mean .*model_a') as error:
        load_config(tmp_path / 'other' / 'model_c.py')
    assert 'model_b' not in str(error.value)
    with pytest.raises(FileNotFoundError, match='model_b'):  # of the same project
        load_config(tmp_path / 'blades' / 'model_c.py')


def test_recipes_over_a_leaf_equal_a_child_config(tmp_path):
    base = config_root('mmdefect') / '_base_'
    bases = [str(path) for path in (LEAF, base / 'synthesis' / 'paste_poisson.py', base / 'class_prior.py')]
    (tmp_path / 'child.py').write_text(
        f'_base_ = {bases!r}\nloss_decode = dict(_delete_=True, type="SoftmaxFocalLoss", gamma=2.0, alpha=None)\n'
    )
    child = load_config(tmp_path / 'child.py')
    laid = load_config(LEAF, None, ['paste_poisson', 'class_prior', 'focal'])
    assert laid.to_dict() == child.to_dict()
    named = load_config(f'{LEAF}+paste_poisson', None, ['class_prior', 'focal'])
    assert named.to_dict() == laid.to_dict() and named.filename == laid.filename
    assert named.filename.endswith('/fast-scnn_baseline_2k_wta-256+paste_poisson+class_prior+focal.py')
    laid.dump(str(tmp_path / 'leaf+focal.py'))
    assert Config.fromfile(str(tmp_path / 'leaf+focal.py')).to_dict() == laid.to_dict()


def test_later_recipes_win_and_options_are_the_last_word():
    def losses(recipes, options=None):
        return next(iter_heads(load_config(LEAF, options, recipes))).loss_decode

    assert losses(['focal_published', 'ce']) == losses([])
    assert losses(['tversky_focal', 'ce_labelled', 'focal_published', 'focal']) == losses(['focal'])
    assert losses(['focal'], {'loss_decode.gamma': 5.0}).gamma == 5.0
    alone, over = (load_config(LEAF, None, recipes) for recipes in (['paste_poisson'], ['mixed', 'paste_poisson']))
    assert alone.train_dataloader.to_dict() == over.train_dataloader.to_dict()
    short = load_config(LEAF.parent / 'fast-scnn_baseline_40k_wta-256.py', None, ['schedule_2k', 'schedule_40k'])
    assert short.to_dict() == load_config(LEAF.parent / 'fast-scnn_baseline_40k_wta-256.py').to_dict()


def test_a_recipe_may_be_a_file_and_a_wrong_name_is_answered_with_close_ones(tmp_path):
    (tmp_path / 'mine.py').write_text('loss_decode = dict(gamma=3.0)\n')
    (tmp_path / '_base_' / 'losses').mkdir(parents=True)
    (tmp_path / '_base_' / 'schedules').mkdir()
    for folder in ('losses', 'schedules'):
        (tmp_path / '_base_' / folder / 'short.py').touch()
    cfg = load_config(LEAF, None, ['focal', str(tmp_path / 'mine.py')])
    assert next(iter_heads(cfg)).loss_decode.gamma == 3.0
    with pytest.raises(ValueError, match="got 'paste_poison'; did you mean paste_poisson"):
        load_config(LEAF, None, ['paste_poison'])
    with pytest.raises(ValueError, match='may be losses/short or schedules/short; write the folder too'):
        find_recipe('short', [tmp_path])
    assert find_recipe('losses/short', [tmp_path]) == tmp_path / '_base_' / 'losses' / 'short.py'
