"""Plans: candidates, configs, fingerprints."""

from __future__ import annotations

import pytest

from mmdefect.experiments.batch import candidates, differences, find_jobs, fingerprint


def test_a_list_of_models_with_comments_and_line_ends():
    text = '# all of them\nfast_scnn/a  # the small one\n  unet/b \\\nunet/c unet/d\n\n'
    assert candidates(text) == ['fast_scnn/a', 'unet/b', 'unet/c', 'unet/d']


def test_entries_are_found_as_paths_and_below_the_roots(tmp_path, make_config):
    path = make_config('unet/b')
    root = tmp_path / 'configs'
    for entry in (path, path.with_suffix(''), 'unet/b', 'unet/b.py', 'unet/../unet/b'):
        (job,) = find_jobs([str(entry)], [root])
        assert (job.name, job.config, job.label) == ('unet/b', path, 'b')


def test_all_unknown_entries_are_named_with_similar_ones(tmp_path, make_config):
    make_config('unet/baseline')
    make_config('_base_/unet/baselina')
    with pytest.raises(FileNotFoundError, match=r"'unet/baselin' \(did you mean unet/baseline\?\); 'zzz'"):
        find_jobs(['unet/baselin', 'unet/baseline', 'zzz'], [tmp_path / 'configs'])


@pytest.mark.parametrize(
    'kwargs, words', [({'gpu_count': -1}, '`gpu_count` must be 0'), ({'cfg_options': ('max_iters', '5')}, 'key=value')]
)
def test_a_wrong_plan_is_refused(make_batch, make_config, kwargs, words):
    with pytest.raises(ValueError, match=words):
        make_batch(make_config('a/m'), **kwargs)


def test_two_models_never_share_a_folder(make_batch, make_config):
    with pytest.raises(ValueError, match='must not share the folder exp/a/m'):
        make_batch(make_config('a/m'), make_config('x/a/m'))
    with pytest.raises(ValueError, match='at least one model'):
        make_batch()


def test_a_fingerprint_notices_content_not_layout_or_place(make_config):
    def chain(folder, lr='0.1', base_name='base'):
        make_config(f'{folder}/_base_/{base_name}', f'lr = {lr}\n')
        leaf = make_config(f'{folder}/leaf', f"_base_ = ['./_base_/{base_name}.py', 'mmseg::x.py']\n")
        return fingerprint(leaf, ['a=1'])

    first = chain('one')
    assert len(first['files']) == 3
    assert differences(first, chain('two', '0.1  # unchanged')) == []
    (changed,) = differences(first, chain('three', '0.2'))
    assert changed.startswith('content of') and changed.endswith('three/_base_/base.py')
    assert differences(first, {**first, 'cfg_options': []}) == ["overrides ['a=1'] then, [] now"]


def test_a_config_that_python_cannot_read_is_left_to_the_training_tool(make_config):
    broken = make_config('a/broken', 'model = dict(')
    lost = make_config('a/lost', "_base_ = './nowhere.py'\n")
    circular = make_config('a/circular', "_base_ = './circular.py'\n")
    assert len(fingerprint(broken, [])['files']) == 1
    assert 'missing' in fingerprint(lost, [])['files'].values()
    assert len(fingerprint(circular, [])['files']) == 1


def test_models_of_other_projects_are_no_suggestion(tmp_path, make_config):
    make_config('fast/model_a'), make_config('blades/model_b')
    (tmp_path / 'configs' / 'blades' / 'split.json').write_text('{}')
    with pytest.raises(FileNotFoundError, match='did you mean fast/model_a') as error:
        find_jobs(['fast/model_c'], [tmp_path / 'configs'])
    assert 'model_b' not in str(error.value)
    with pytest.raises(FileNotFoundError, match='blades/model_b'):
        find_jobs(['blades/model_c'], [tmp_path / 'configs'])
