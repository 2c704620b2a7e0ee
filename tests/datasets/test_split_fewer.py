"""Fewer defective training images: nested, grouped, drawn by seed, and nothing else changes."""

import json
import runpy
from collections import Counter
from pathlib import Path

import pytest

from mmdefect.datasets.split_file import Split, SplitEntry, read_split, write_split
from mmdefect.datasets.splits import split_fewer

TOOL = Path(__file__).resolve().parents[2] / 'tools' / 'split_fewer.py'


def entry(name, kind):
    return SplitEntry(f'images/{name}.png', None if kind == 'good' else f'masks/{name}.png', kind, name.rjust(64, '0'))


@pytest.fixture
def split_file(tmp_path):
    train = (
        [entry(f'good{i}', 'good') for i in range(4)]
        + [entry(f'crack{i}', 'crack') for i in range(9)]
        + [entry(f'hole{i}', 'hole') for i in range(2)]
    )
    test = [entry(f'test{i}', 'crack') for i in range(3)]
    write_split(Split(dict(train=train, test=test), dict(name='fractions'), 7, dict(dataset='x')), tmp_path / 's.json')
    return tmp_path / 's.json'


def images(split, kind):
    return {e.image for e in split.splits['train'] if e.type == kind}


def test_shots_lie_inside_each_other_and_the_rest_stays(split_file, tmp_path):
    out = str(tmp_path / 'shots_{shots}.json')
    made = split_fewer(str(split_file), [1, 3, 5], out)
    before = read_split(split_file)
    for number, split in made.items():
        assert split == read_split(tmp_path / f'shots_{number}.json')
        assert split.counts()['train'] == {'crack': number, 'good': 4, 'hole': min(number, 2)}
        assert split.splits['test'] == before.splits['test'] and split.notes == before.notes
        order = [e.image for e in before.splits['train']]
        assert [e.image for e in split.splits['train']] == [
            i for i in order if i in {e.image for e in split.splits['train']}
        ]
    assert images(made[1], 'crack') < images(made[3], 'crack') < images(made[5], 'crack')
    again = split_fewer(str(split_file), [3], str(tmp_path / 'again_{shots}.json'))[3]
    assert images(again, 'crack') == images(made[3], 'crack')
    drawn = Counter()
    for seed in range(60):
        drawn.update(images(split_fewer(str(split_file), [3], out, seed, overwrite=True)[3], 'crack'))
    assert len(drawn) == 9 and min(drawn.values()) > 8  # 20 on average, each with a standard deviation of 3.7


@pytest.mark.parametrize('out', [None, 'shots_{shots}_{seed}.json'])
def test_the_tool_names_files_by_number_and_seed(split_file, out, monkeypatch, capsys):
    words = ['--out', str(split_file.with_name(out))] if out else []
    monkeypatch.setattr('sys.argv', ['split_fewer.py', str(split_file), '--shots', '1', '3', '--seed', '4', *words])
    assert runpy.run_path(str(TOOL), run_name='tool')['main']() == 0
    assert sorted(path.name for path in split_file.parent.glob('shots_*')) == ['shots_1_4.json', 'shots_3_4.json']
    assert 'shots_1_4.json: 1 crack, 4 good, 1 hole in train' in capsys.readouterr().out.replace(
        '1 hole, 4 good', '4 good, 1 hole'
    )


def test_clean_images_of_a_product_stay(tmp_path):
    train = [entry(f'good{i}', 'screw/good') for i in range(4)] + [
        entry(f'top{i}', 'screw/thread_top') for i in range(3)
    ]
    write_split(Split(dict(train=train), dict(name='third'), 7, dict(dataset='x')), tmp_path / 's.json')
    made = split_fewer(str(tmp_path / 's.json'), [1], str(tmp_path / 'shots_{shots}.json'))
    assert made[1].counts()['train'] == {'screw/good': 4, 'screw/thread_top': 1}


def test_every_group_gives_an_image_before_one_gives_two(split_file, tmp_path):
    groups = [[f'images/crack{i}.png' for i in range(5)], ['images/crack5.png', 'images/crack6.png']]
    stems = [[image[7:-4] for image in group] for group in groups]
    (tmp_path / 'g.json').write_text(json.dumps(stems))
    of = {image: k for k, group in enumerate(groups) for image in group}
    for seed in range(20):
        made = split_fewer(
            str(split_file), [4, 6], str(tmp_path / 'shots_{shots}.json'), seed, str(tmp_path / 'g.json'), True
        )
        assert {of.get(image, image) for image in images(made[4], 'crack')} == {
            0,
            1,
            'images/crack7.png',
            'images/crack8.png',
        }
        assert sorted(Counter(of.get(i, i) for i in images(made[6], 'crack')).values()) == [1, 1, 2, 2]


def test_what_is_wrong_is_said_before_anything_is_written(split_file, tmp_path):
    (tmp_path / 'shots_3.json').write_text('mine')
    out = str(tmp_path / 'shots_{shots}.json')
    with pytest.raises(FileExistsError, match='shots_3.json must not exist yet'):
        split_fewer(str(split_file), [1, 3], out)
    assert not (tmp_path / 'shots_1.json').exists()
    for args, words in [(([0], out), 'from 1 on'), (([1], str(tmp_path / 'x.json')), '{shots}')]:
        with pytest.raises(ValueError, match=words):
            split_fewer(str(split_file), *args)
    (tmp_path / 'g.json').write_text('3')
    with pytest.raises(ValueError, match='list of lists'):
        split_fewer(str(split_file), [1], out, group_file=str(tmp_path / 'g.json'))


def test_spare_images_go_to_validation_but_not_those_of_a_part_that_trains(tmp_path):
    train = [entry('good0', 'good'), *(entry(f'crack{i}', 'crack') for i in range(6))]
    splits = dict(train=train, val=[entry('val0', 'crack')], test=[entry('test0', 'crack')])
    write_split(Split(splits, dict(name='fractions'), 7, {}), tmp_path / 's.json')
    pairs = [[f'images/crack{i}.png', f'images/crack{i + 1}.png'] for i in (0, 2, 4)]
    (tmp_path / 'groups.json').write_text(json.dumps(pairs))
    out = str(tmp_path / 'dev_{shots}.json')
    groups = str(tmp_path / 'groups.json')
    made = split_fewer(str(tmp_path / 's.json'), [1], out, group_file=groups, spare_to='val')[1]
    (kept,) = images(made, 'crack')
    partner = next(pair for pair in pairs if kept in pair)
    spare = {e.image for e in made.splits['val']} - {'images/val0.png'}
    assert spare == {e.image for e in train if e.type == 'crack'} - set(partner)
    assert made.splits['test'] == splits['test'] and made.protocol['spare_to'] == 'val'
    for wrong in ('test', 'train', 'outer'):
        with pytest.raises(ValueError, match='`spare_to` must be another split than train and test, one of val'):
            split_fewer(str(tmp_path / 's.json'), [1], out, overwrite=True, spare_to=wrong)
