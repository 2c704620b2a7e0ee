"""The choice of words from records with the published numbers."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

from mmdefect.diffusion.commands import compare_words
from mmdefect.experiments.study import read_study

ROOT = Path(__file__).resolve().parents[2]
STUDY = ROOT / 'configs' / 'studies' / 'wta_words.py'
#: Foreground mIoU of Fast-SCNN, as published.
PUBLISHED = dict(
    original=26.13, blistering=33.31, corrosion=25.83, dent=34.89, peeling=30.26, rust=31.71, scratch=24.94
)


def write_records(folder, values, spread=0.0):
    (folder / 'records').mkdir(parents=True)
    for index, (arm, value) in enumerate(values.items()):
        for seed in range(3):
            key = f'{index:08x}{seed:08x}'
            record = dict(
                version=1,
                key=key,
                used_by=[dict(study='words', arm=arm, seed=seed)],
                base='b',
                seed=seed,
                diff={},
                data={},
                budget=dict(iterations=2000, val_interval=200, batch_size=8),
                rule={},
                tests=[],
                test={'fg_mIoU': value + spread * (seed - 1) * (-1) ** index},
                validation={},
                best={},
            )
            (folder / 'records' / f'{key}.json').write_text(json.dumps(record))


def test_the_published_choice_is_made_again(tmp_path):
    write_records(tmp_path, PUBLISHED, spread=0.2)
    text = compare_words(STUDY, tmp_path)
    order = [text.index(f'{k}. `{word}`') for k, word in enumerate(['dent', 'blistering', 'rust', 'peeling'], 1)]
    assert order == sorted(order)
    assert '- dropped `corrosion`: lower fg_mIoU' in text and '- dropped `scratch`: lower fg_mIoU' in text
    assert 'Of the 2 sets with a lower mean' in text


def test_noise_confirms_nothing_when_seeds_differ_as_much(tmp_path):
    write_records(tmp_path, dict(original=26.0, rust=25.5), spread=7.0)
    assert '1 sets with a lower mean in some metric, 0 can be told' in compare_words(STUDY, tmp_path)


def test_every_word_has_a_packed_set_of_its_own():
    arms = {arm.name: arm for arm in read_study(STUDY).arms}
    assert list(arms) == ['original', 'scratch', 'rust', 'peeling', 'corrosion', 'blistering', 'dent']
    folders = [arms[word].overrides['generated.folder'] for word in list(arms)[1:]]
    assert folders == [f'data/generated/words/{word}' for word in list(arms)[1:]]
    assert not arms['original'].overrides


def test_the_command_names_what_is_missing(tmp_path, capsys):
    main = runpy.run_path(str(ROOT / 'tools' / 'generate.py'))['main']
    assert main(['compare-words', str(STUDY), '--results', str(tmp_path)]) == 2
    assert 'records' in capsys.readouterr().err
    write_records(tmp_path, PUBLISHED)
    assert main(['compare-words', str(STUDY), '--results', str(tmp_path), '--out', str(tmp_path / 'choice.md')]) == 0
    assert '1. `dent`' in capsys.readouterr().out and '1. `dent`' in (tmp_path / 'choice.md').read_text()
    with pytest.raises(ValueError, match='one of the arms'):
        compare_words(STUDY, tmp_path, reference='nobody')
