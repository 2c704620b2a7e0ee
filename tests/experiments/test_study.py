"""Studies over stand-in tools: expansion, keys, records, resuming, pages."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess

import numpy as np
import pytest
import scipy.stats

from mmdefect.datasets.split_file import FORMAT
from mmdefect.experiments import study_records
from mmdefect.experiments.compare import FinishedRun
from mmdefect.experiments.engines import Slots
from mmdefect.experiments.preregistration import preregister
from mmdefect.experiments.select import Rule
from mmdefect.experiments.study import Composer, expand, read_study
from mmdefect.experiments.study_page import compare_study, each_pair_section, pairs_section, write_study_page
from mmdefect.experiments.study_run import Places, run_study
from tests.experiments import study_helpers as helpers

STUDY = """
name = 'quality'
title = 'Does quality matter?'
base = 'base.py'
factor = dict(name='quality', keys=['quality'])
seeds = [0, 1, 2]
selection = dict(metric='mIoU')
metrics = ['fg_mIoU', 'IoU.broken', 'never_logged']
arms = dict(low={}, high=dict(bases=['high.py'], priority=2), more=['quality=0.95'])
"""


@pytest.fixture
def place(tmp_path):
    """A folder with data, configs and a study file."""
    helpers.write_data(tmp_path / 'data')
    (tmp_path / 'base.py').write_text(
        f'data_root = {str(tmp_path / "data")!r}\nquality = 0.5\nrandomness = dict(seed=9)\n'
        'train_cfg = dict(max_iters=6)\ntrain_dataloader = dict(batch_size=2)\n'
    )
    (tmp_path / 'high.py').write_text('quality = 0.9\n')
    (tmp_path / 'study.py').write_text(STUDY)
    return tmp_path


def run(place, study, **kwargs):
    runs = expand(study, helpers.COMPOSER, place)
    places = Places(place / 'work', place / 'results', place)
    slots = kwargs.pop('slots', Slots(3))
    states = run_study(
        study,
        runs,
        places,
        kwargs.pop('tools', helpers.TOOLS),
        slots,
        lambda settings: helpers.truth(place / 'data'),
        'python tools/study.py study.py',
        print,
        allow_modified=kwargs.pop('allow_modified', True),
    )
    return runs, states, places


def finished(seed, value):
    return FinishedRun(f'seed {seed}', seed, {'fg_mIoU': value})


def test_arms_and_seeds_become_runs_in_order_of_priority(place):
    study = read_study(place / 'study.py')
    runs = expand(study, helpers.COMPOSER, place)
    assert [(r.arm.name, r.seed) for r in runs] == [
        ('low', 0),
        ('more', 0),
        ('low', 1),
        ('more', 1),
        ('low', 2),
        ('more', 2),
        ('high', 0),
        ('high', 1),
        ('high', 2),
    ]
    assert [r.settings['quality'] for r in runs[:2]] + [runs[-1].settings['quality']] == [0.5, 0.95, 0.9]
    assert runs[1].diff == {'quality': [0.5, 0.95]} and runs[0].diff == {}
    assert len({r.key for r in runs}) == 9


def test_an_arm_without_its_settings_stops_only_who_wants_it(place):
    (place / 'high.py').rename(place / 'later.py')
    study = read_study(place / 'study.py')
    with pytest.raises(FileNotFoundError, match=r"arm 'high' must have its settings, but .*high.py is not there; make"):
        expand(study, helpers.COMPOSER, place)
    runs = expand(study, helpers.COMPOSER, place, arms=[arm for arm in study.arms if arm.name != 'high'])
    assert {r.arm.name for r in runs} == {'low', 'more'}


def test_bases_of_a_study_lie_below_its_overrides_and_the_bases_of_arms(place):
    (place / 'all.py').write_text('quality = 0.1\nspeed = 1\nturns = 1\n')
    (place / 'study.py').write_text(STUDY + "bases = ['all.py']\noverrides = dict(speed=2)\n")
    runs = {r.arm.name: r.settings for r in expand(one_seed(place), helpers.COMPOSER, place)}
    assert [[runs[arm][key] for key in ('quality', 'speed', 'turns')] for arm in ('low', 'more', 'high')] == [
        [0.1, 2, 1],
        [0.95, 2, 1],
        [0.9, 2, 1],
    ]
    (place / 'all.py').unlink()
    with pytest.raises(FileNotFoundError, match='all.py is not there'):
        expand(one_seed(place), helpers.COMPOSER, place)


def test_the_seed_stands_in_texts_of_overrides(place):
    (place / 'study.py').write_text(
        STUDY.replace("more=['quality=0.95']", "more={'overrides': {'split_file': 'shots_{seed}.json'}}")
    )
    runs = expand(read_study(place / 'study.py'), helpers.COMPOSER, place)
    assert [r.settings['split_file'] for r in runs if r.arm.name == 'more'] == [
        f'shots_{seed}.json' for seed in range(3)
    ]
    (place / 'study.py').write_text(STUDY + "overrides = {'split_file': 'few_{seed}.json'}\n")
    runs = expand(read_study(place / 'study.py'), helpers.COMPOSER, place)
    assert {r.settings['split_file'] for r in runs if r.seed == 2} == {'few_2.json'} and len(runs) == 9


def test_split_files_count_where_they_are_named(place):
    (place / 'study.py').write_text(
        STUDY.replace("more=['quality=0.95']", "more={'overrides': {'split_file': 'shots_{seed}.json'}}")
    )
    study = dataclasses.replace(read_study(place / 'study.py'), seeds=(0, 1))

    def keys():
        runs = expand(study, helpers.COMPOSER, place)
        return {(r.arm.name, r.seed): r.key for r in runs}

    def changed():
        nonlocal before
        now = keys()
        different = {cell for cell in now if now[cell] != before[cell]}
        before = now
        return different

    before = keys()
    body = {'format': FORMAT, 'splits': {}}
    for seed in (0, 2):
        (place / 'data' / f'shots_{seed}.json').write_text(json.dumps(body))
    assert changed() == {('more', 0)}
    (place / 'data' / 'shots_0.json').write_text(json.dumps({**body, 'seed': 1}))
    assert changed() == {('more', 0)}
    for other in ('dataset.json', 'notes.json'):  # what is no split file counts everywhere
        (place / 'data' / other).write_text('["shots"]' if other == 'notes.json' else '{"format": "folder"}')
        assert changed() == set(before)


def test_a_study_stands_on_the_values_of_another_file(place):
    (place / 'shared').mkdir()
    (place / 'shared' / 'first.py').write_text("iterations = 3\nseeds = [4, 5]\nmetrics = ['mIoU']\n")
    (place / 'shared' / 'second.py').write_text("_base_ = 'first.py'\nmetrics = ['aAcc']\n")
    own = ''.join(line for line in STUDY.splitlines(True) if not line.startswith('metrics'))
    (place / 'study.py').write_text("_base_ = 'shared/second.py'\n" + own)
    study = read_study(place / 'study.py')
    assert (study.iterations, study.metrics, study.seeds) == (3, ('aAcc',), (0, 1, 2))
    (place / 'study.py').write_text("_base_ = 'shared/third.py'\n" + STUDY)
    with pytest.raises(FileNotFoundError, match='third.py is not'):
        read_study(place / 'study.py')


def test_an_override_that_composing_replaces_is_refused(place):
    def compose(settings, path):
        settings['train_dataloader']['batch_size'] = settings['quality'] * 10
        return helpers.compose(settings, path)

    study = dataclasses.replace(read_study(place / 'study.py'), overrides={'train_dataloader.batch_size': 3})
    with pytest.raises(ValueError, match=r"batch_size = 3 of the arm 'low' must have an effect.*says 5.0"):
        expand(study, Composer(helpers.read, compose), place)


def test_the_key_sees_settings_seed_and_data_and_nothing_else(place):
    study = read_study(place / 'study.py')
    keys = [r.key for r in expand(study, helpers.COMPOSER, place)]
    moved = place.parent / f'{place.name}_moved'
    (place / 'data').rename(moved)
    options = {'data_root': str(moved), 'train_dataloader.num_workers': 7}
    assert [r.key for r in expand(study, helpers.COMPOSER, place, options)] == keys
    (moved / 'ann_dir' / 'test' / 'part.0.png').write_bytes(b'changed')
    assert not {r.key for r in expand(study, helpers.COMPOSER, place, options)} & set(keys)


def test_an_arm_of_two_studies_has_one_key_and_an_offset_gives_new_ones(place):
    study = read_study(place / 'study.py')
    arms = (
        dataclasses.replace(study.arms[0], name='again'),
        dataclasses.replace(study.arms[0], name='other', seed_offset=50),
    )
    other = dataclasses.replace(study, name='second', arms=arms)
    first = {r.key for r in expand(study, helpers.COMPOSER, place) if r.arm.name == 'low'}
    runs = expand(other, helpers.COMPOSER, place)
    assert {r.key for r in runs if r.arm.name == 'again'} == first
    assert [r.seed for r in runs if r.arm.name == 'other'] == [50, 51, 52]
    assert not {r.key for r in runs if r.arm.name == 'other'} & first


def test_an_arm_can_have_some_of_the_seeds_alone(place):
    (place / 'study.py').write_text(STUDY.replace('low={}', 'low=dict(seeds=[0, 2])'))
    study = read_study(place / 'study.py')
    runs = expand(study, helpers.COMPOSER, place)
    seeds = {arm.name: [r.seed for r in runs if r.arm.name == arm.name] for arm in study.arms}
    assert seeds == {'low': [0, 2], 'high': [0, 1, 2], 'more': [0, 1, 2]}
    assert [r.seed for r in expand(study, helpers.COMPOSER, place, arms=study.arms[:1])] == [0, 2]
    _, states, places = run(place, study)
    assert len(states) == 8 and '8 of 8 runs' in (places.results / 'quality.md').read_text()
    first = dataclasses.replace(study, seeds=(1,))
    assert [r.arm.name for r in expand(first, helpers.COMPOSER, place)] == ['more', 'high']
    assert '2 of 2 runs' in write_study_page(first, places.results, 'python tools/study.py study.py').read_text()
    with pytest.raises(ValueError, match=r'one of the seeds \[1\] at least'):
        expand(first, helpers.COMPOSER, place, arms=study.arms[:1])


def test_another_choice_of_checkpoint_is_another_run(place):
    study = read_study(place / 'study.py')
    keys = {
        rule: {r.key for r in expand(dataclasses.replace(study, rule=rule), helpers.COMPOSER, place)}
        for rule in (Rule('fg_mIoU'), Rule('fg_mIoU', tie='first'), Rule('cal_fg_mIoU'))
    }
    assert len(set.union(*keys.values())) == 27


def test_a_study_leaves_records_and_a_page(place):
    study = read_study(place / 'study.py')
    runs, states, places = run(place, study)
    assert {state.status for state in states.values()} == {'done'} and len(states) == 9
    record = json.loads((places.records / f'{runs[0].key}.json').read_text())
    assert record['used_by'] == [{'study': 'quality', 'arm': 'low', 'seed': 0}]
    assert record['budget'] == {'iterations': 6, 'val_interval': None, 'batch_size': 2}
    assert len(record['counts']['images']) == 6 and len(record['tests']) == 1
    assert str(place) not in (places.records / f'{runs[0].key}.json').read_text()
    page = (places.results / 'quality.md').read_text()
    assert '9 of 9 runs' in page and '`high` is better than `low` in fg_mIoU' in page and 'never_logged' not in page
    fewer = dataclasses.replace(study, seeds=(0, 2))
    assert '6 of 6 runs' in write_study_page(fewer, places.results, 'python tools/study.py study.py').read_text()
    assert str(place) not in page
    values = compare_study(study, study_records.read_records(places.records)).values['low']['fg_mIoU']
    # Counts of single images must add up to what the test itself has logged.
    logged = [study_records.read_records(places.records)[r.key]['test']['fg_mIoU'] for r in runs if r.arm.name == 'low']
    assert values == pytest.approx(logged, abs=1e-3)


def one_seed(place):
    return dataclasses.replace(read_study(place / 'study.py'), seeds=(0,))


def short(place):
    """The study with one seed and two arms."""
    study = one_seed(place)
    return dataclasses.replace(study, arms=study.arms[:2])


def test_what_has_a_record_is_not_run_again_even_without_its_folder(place):
    study = short(place)
    _, _, places = run(place, study)
    page = (places.results / 'quality.md').read_text()
    (place / 'work').rename(place / 'gone')
    _, states, _ = run(place, study)
    assert not states and (places.results / 'quality.md').read_text() == page
    assert write_study_page(study, places.results, 'python tools/study.py study.py').read_text() == page


def test_a_failed_run_is_tried_again_and_the_page_shows_what_is_there(place):
    (place / 'high.py').write_text('quality = 0.9\nkill_at = 5\n')
    study = short(place)
    _, states, places = run(place, study)
    assert sorted(state.status for state in states.values()) == ['done', 'failed']
    assert '1 of 2 runs' in (places.results / 'quality.md').read_text()
    _, states, _ = run(place, study)
    assert [(s.status, [a['resumed_from'] for a in s.attempts]) for s in states.values()] == [('done', [0, 4])]
    assert '2 of 2 runs' in (places.results / 'quality.md').read_text()


def test_a_changed_arm_takes_its_cells_from_the_old_records(place):
    study = short(place)
    run(place, study)
    (place / 'high.py').write_text('quality = 0.8\n')
    _, states, places = run(place, study)
    assert len(states) == 1
    found = study_records.records_of('quality', study_records.read_records(places.records))
    assert {r['diff']['quality'][1] for r in found['high'].values()} == {0.8}
    assert len(study_records.read_records(places.records)) == 3


def test_the_same_settings_under_two_names_are_not_distinguishable(place):
    text = STUDY.replace(
        "arms = dict(low={}, high=dict(bases=['high.py'], priority=2), more=['quality=0.95'])",
        'arms = dict(first={}, second=dict(seed_offset=100))',
    )
    (place / 'study.py').write_text(text)
    study = read_study(place / 'study.py')
    _, states, places = run(place, study, slots=Slots(2, threads=1))
    assert len(states) == 6
    page = (places.results / 'quality.md').read_text()
    assert '`second` is not distinguishable from `first` in fg_mIoU' in page


@pytest.mark.parametrize(
    ('text', 'words'),
    [
        (STUDY.replace('arms =', 'arm ='), 'arms'),
        (STUDY + 'speed = 3\n', 'speed'),
        (STUDY.replace('low={}', 'low=dict(base=[])'), "'low'"),
        (STUDY + "baseline = 'none'\n", 'baseline'),
        (STUDY.replace('[0, 1, 2]', '[0, 0]'), 'seeds'),
        (
            STUDY.replace('low={}', 'low=dict(seeds=[0, 7])'),
            r"'low' must be some of the study's, \[0, 1, 2\], got \[0, 7\]",
        ),
        (STUDY.replace("mIoU')", "mIoU', tie='both')"), 'tie'),
    ],
)
def test_a_wrong_study_file_is_told_in_one_sentence(tmp_path, text, words):
    (tmp_path / 'study.py').write_text(text)
    with pytest.raises(ValueError, match=words):
        read_study(tmp_path / 'study.py')


def test_slots_share_out_gpus_and_threads():
    slots = Slots(3, threads=2, gpus=('0', '2'))
    assert [slots.environment(k)['CUDA_VISIBLE_DEVICES'] for k in range(3)] == ['0', '2', '0']
    assert slots.environment(0)['OMP_NUM_THREADS'] == '2' and Slots().environment(0) == {}
    with pytest.raises(ValueError, match='at least one slot'):
        Slots(0)


def test_donors_from_test_images_are_found(place):
    job = place / 'job'
    (job / 'train').mkdir(parents=True)
    truth = helpers.truth(place / 'data')
    assert study_records.donor_leaks(job, truth) is None
    (job / 'train' / 'donors.json').write_text(
        json.dumps({'sources': [str(truth.samples[2].image), '/elsewhere/a.png']})
    )
    assert study_records.donor_leaks(job, truth) == ['part.2']
    copy = place / 'copy.png'
    copy.write_bytes(truth.samples[4].image.read_bytes())
    (place / 'library').mkdir()
    (place / 'library' / 'library.json').write_text(json.dumps({'sources': [str(copy)]}))
    assert study_records.donor_leaks(job, truth, [str(place / 'library')]) == ['part.2', 'part.4']


def test_pairs_of_arms_are_averaged_within_a_seed(place):
    """Against counting each image out by hand: the interval is that of the mean over the pairs of each seed."""
    (place / 'study.py').write_text(STUDY + "\npairs = [['low', 'high'], ['low', 'more']]\n")
    study = read_study(place / 'study.py')
    assert study.pairs == {'': (('low', 'high'), ('low', 'more'))}
    _, _, places = run(place, study)
    found = study_records.records_of(study.name, study_records.read_records(places.records))

    def iou(record, without=None):
        rows = [np.reshape(row, (3, 3)) for name, row in record['counts']['images'].items() if name != without]
        hit, predicted, labelled = sum(rows)[1:].T
        return 100 * np.mean(hit / (predicted + labelled - hit))

    def gain(seed, without=None):
        low, high, more = (iou(found[arm][seed], without) for arm in ('low', 'high', 'more'))
        return (high + more) / 2 - low

    names = list(found['low'][0]['counts']['images'])
    values = np.array([gain(seed) for seed in study.seeds])
    table = np.array([[6 * gain(seed) - 5 * gain(seed, name) for name in names] for seed in study.seeds])
    rest = table - table.mean(0) - table.mean(1)[:, None] + table.mean()
    variances = values.var(ddof=1) / 3, table.mean(0).var(ddof=1) / 6, (rest**2).sum() / 10 / 18
    error = np.sqrt(max(variances[0] + variances[1] - variances[2], *variances[:2]))
    page = (places.results / 'quality.md').read_text()
    row = next(line for line in page.split('## Pairs together')[1].splitlines() if line.startswith('| fg_mIoU'))
    value, low, high = map(float, re.search(r'(\S+) \[(\S+), (\S+)\]', row).groups())
    assert value == pytest.approx(values.mean(), abs=0.006) and '6 of 6 | seeds and images' in row
    # Between the quantiles of 1 and of 5 degrees of freedom, around the middle.
    assert (low + high) / 2 == pytest.approx(value, abs=0.01)
    assert scipy.stats.t.ppf(0.975, 5) * error < (high - low) / 2 < scipy.stats.t.ppf(0.975, 1) * error


def test_an_empty_list_of_pairs_is_none(place):
    for pairs in ('[]', "{'what': []}"):
        (place / 'study.py').write_text(f'{STUDY}\npairs = {pairs}\n')
        study = read_study(place / 'study.py')
        assert study.pairs == {}
        found = {arm.name: dict.fromkeys(study.seeds) for arm in study.arms}
        assert pairs_section(study, found, ['fg_mIoU']) == each_pair_section(study, found, ['fg_mIoU']) == ''


def test_groups_of_pairs_are_told_apart(place):
    """Each group alone gives the section it gives beside another; a pair of two groups is listed once."""
    groups = dict(quality=[['low', 'high']], both=[['low', 'high'], ['low', 'more']], third=[['high', 'more']])
    (place / 'study.py').write_text(f'{STUDY}\npairs = {groups}\n')
    study = read_study(place / 'study.py')
    found = {
        arm: {seed: finished(seed, seed * scale) for seed in study.seeds}
        for arm, scale in dict(low=1.0, high=2.5).items()
    }
    metrics = ['fg_mIoU']
    assert pairs_section(study, found, metrics).count('## ') == 1
    found['more'] = {2: finished(2, 7.0)}
    both = re.sub(' +', ' ', pairs_section(study, found, metrics))
    alone = re.sub(' +', ' ', pairs_section(dataclasses.replace(study, pairs={'': (('low', 'high'),)}), found, metrics))
    titles = [line for line in both.splitlines() if line.startswith('## ')]
    assert titles == ['## Pairs together: quality', '## Pairs together: both', '## Pairs together: third']
    assert alone.split('\n', 1)[1].strip() in both and alone.startswith('## Pairs together\n')
    assert '| +4.00 |' in both.split('third')[0] and '| +2.00 |' in both.split('third')[1]  # (5 + 7) / 2 - 2, 7 - 5
    assert '+1.50 [' in alone and '| 2 of 3' in alone
    assert each_pair_section(study, found, metrics).count('`high` - `low`') == 1


def test_pairs_wait_for_a_whole_seed_and_name_arms(place):
    study = read_study(place / 'study.py')
    assert pairs_section(study, {}, ['fg_mIoU']) == ''
    with pytest.raises(ValueError, match='`pairs` must be pairs of the arms'):
        dataclasses.replace(study, pairs={'': (('low', 'absent'),)})
    study = dataclasses.replace(study, pairs={'': (('low', 'high'),)})
    found = {'low': {0: finished(0, 1.0), 1: finished(1, 2.0)}, 'high': {1: finished(1, 5.0)}}
    section = pairs_section(study, found, ['fg_mIoU', 'absent'])
    assert '+3.00 |' in section and '1 of 1' in section and 'absent' not in section


def test_each_pair_has_its_difference(place):
    """Against scipy, and p after Holm by hand: the smaller of two is doubled."""
    study = dataclasses.replace(read_study(place / 'study.py'), pairs={'': (('low', 'high'), ('low', 'more'))})
    values = dict(low=(1.0, 2.0, 4.0), high=(9.0, 10.2, 12.1), more=(2.0, 2.5, 6.0))
    found = {
        arm: {seed: finished(seed, value) for seed, value in zip(study.seeds, those, strict=True)}
        for arm, those in values.items()
    }
    section = each_pair_section(study, found, ['fg_mIoU', 'absent'])
    for arm, star in (('high', ' *'), ('more', '')):
        wanted = scipy.stats.ttest_rel(values[arm], values['low'])
        low, high = wanted.confidence_interval()
        assert (2 * wanted.pvalue < 0.05) == bool(star)
        row = next(line for line in section.splitlines() if line.startswith(f'| `{arm}` - `low`, n = 3'))
        assert f'{sum(values[arm]) / 3 - sum(values["low"]) / 3:+.2f} [{low:+.2f}, {high:+.2f}]{star} |' in row
    assert 'absent' not in section
    del found['more'][0], found['more'][1], found['high'][0]
    section = each_pair_section(study, found, ['fg_mIoU'])
    assert re.search(r'`more` - `low`, n = 1 \| +\+2.00 \|', section) and 'n = 2' in section
    assert each_pair_section(study, {}, ['fg_mIoU']) == ''


def test_the_key_holds_code_and_versions_unless_the_study_tolerates_them(place):
    study = read_study(place / 'study.py')

    def keys(study, **environment):
        return [r.key for r in expand(study, helpers.COMPOSER, place, environment=environment)]

    plain = keys(study)
    assert plain == keys(dataclasses.replace(study, tolerates=('code',)), code='a')
    assert len({*plain, *keys(study, code='a'), *keys(study, code='b'), *keys(study, versions={'torch': '2'})}) == 36
    tolerant = dataclasses.replace(study, tolerates=('code', 'versions'))
    assert keys(tolerant, code='b', versions={'torch': '2'}) == plain
    with pytest.raises(ValueError, match='`tolerates` must be some of code and versions'):
        dataclasses.replace(study, tolerates=('commit',))


def test_the_key_does_not_see_what_lies_beside_the_data(place):
    read = sorted((place / 'data').rglob('*.png'))
    composer = dataclasses.replace(helpers.COMPOSER, files=lambda settings: read)
    study = read_study(place / 'study.py')
    before = [r.key for r in expand(study, composer, place)]
    (place / 'data' / 'another_product').mkdir()
    (place / 'data' / 'another_product' / 'a.png').write_bytes(b'1')
    (place / 'data' / 'groups.json').write_text('[]')
    assert [r.key for r in expand(study, composer, place)] == before
    read[0].write_bytes(b'other')
    assert not {r.key for r in expand(study, composer, place)} & set(before)


def test_only_statements_of_what_trains_are_in_the_digest_of_the_code(place):
    def digest(text, file='models/a.py'):
        path = place / 'mmdefect' / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return study_records.code_digest(place)

    first = digest('def f(x):\n    """One."""\n    return x\n')
    assert digest('"""Module."""\n\n\ndef f(x):  # said\n    """Two."""\n    return x\n') == first
    assert digest('print(1)\n', 'experiments/b.py') == first
    assert digest('def f(x):\n    return x + 1\n') != first


def git(place, *words):
    subprocess.run(['git', '-C', str(place), '-c', 'user.name=a', '-c', 'user.email=a@b', *words], check=True)


@pytest.fixture
def repository(place):
    for folder in ('configs', 'docs'):
        (place / folder).mkdir()
    git(place, 'init', '-q')
    (place / '.gitignore').write_text('work/\nresults/\n')
    git(place, 'add', '-A')
    git(place, 'commit', '-q', '-m', 'all')
    return place


def test_a_modified_tree_is_refused_unless_allowed_and_then_the_page_says_so_first(repository):
    study = short(repository)
    (repository / 'docs' / 'notes.md').write_text('Words.\n')  # decides nothing
    assert study_records.check_clean(repository, False)['modified'] is False
    (repository / 'configs' / 'new.py').write_text('a = 1\n')
    with pytest.raises(ValueError, match='must run from a clean commit.*has local changes; commit them, or'):
        run(repository, study, allow_modified=False)
    _, _, places = run(repository, study)
    lines = (places.results / 'quality.md').read_text().splitlines()
    assert lines[2].startswith('> 2 of 2 runs come from **modified trees**')
    (repository / 'configs' / 'new.py').unlink()
    clean = dataclasses.replace(study, name='clean', seeds=(1,))
    run(repository, clean, allow_modified=False)
    assert 'modified trees' not in (places.results / 'clean.md').read_text()
    (repository / 'high.py').write_text('quality = 0.7\n')
    assert study_records.check_clean(repository, True)['modified'] is True


def test_without_a_repository_nothing_is_clean(place):
    with pytest.raises(ValueError, match='is no git repository'):
        study_records.check_clean(place, False)


def test_records_from_before_the_rule_are_read_and_marked(place):
    study = short(place)
    _, _, places = run(place, study)
    for file in places.records.glob('*.json'):
        record = json.loads(file.read_text())
        study_records.write_record(places.records, {k: v for k, v in record.items() if k != 'code'})
    page = write_study_page(study, places.results, 'python tools/study.py study.py').read_text()
    assert '> 2 of 2 runs were made before a key held code and versions' in page


def test_a_preregistration_is_committed_first_and_the_page_compares(repository):
    plan = "\nstopping = 'after all seeds'\ndecision = [dict(pair=('low', 'high'), metric='fg_mIoU', above=8.0)]\n"
    (repository / 'study.py').write_text(STUDY + plan)
    (repository / '.gitignore').write_text('work/\nresults/records\nresults/*.md\n')
    git(repository, 'commit', '-qam', 'plan')
    results, study = repository / 'results', short(repository)
    path = preregister(study, results, repository)
    with pytest.raises(ValueError, match='must be committed before a run'):
        run(repository, study, allow_modified=False)
    git(repository, 'add', str(path))
    git(repository, 'commit', '-q', '-m', 'preregistered')
    run(repository, study, allow_modified=False)
    page = (results / 'quality.md').read_text()
    section = page.split('## As planned beforehand')[1].split('## Test')[0]
    assert 'after all seeds' in section and 'None: the study is what was planned' in section
    assert re.search(r'`high` - `low` +\| fg_mIoU above \+8 +\| (met|open) ', section) and 'images' in section
    with pytest.raises(ValueError, match='once, before its first run'):
        preregister(study, results, repository)
    more = dataclasses.replace(study, seeds=(0, 1), stopping='when it looks good')
    run(repository, more, allow_modified=False)
    section = (results / 'quality.md').read_text().split('## As planned beforehand')[1].split('## Test')[0]
    assert "`stopping` was planned as 'after all seeds'" in section and '2 runs were not planned' in section
    with pytest.raises(ValueError, match='must have `stopping` and `decision`'):
        preregister(dataclasses.replace(study, name='other', decision=()), results, repository)
