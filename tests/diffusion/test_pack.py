"""From a folder of edits to a packed set that a config trains on: commands, review, manifest."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image

from mmdefect.diffusion.manifest import Manifest, Record
from mmdefect.diffusion.pack import FILE, read_pack
from mmdefect.diffusion.relabel_run import read_decisions

from .relabel_cases import SIZE, write_edits
from .test_masks import run

CLASSES = ('normal', 'gold', 'white')


def relabel(root, *more, out=None):
    return run(
        'relabel --edits',
        root / 'edits',
        '--prefix new_ --sources',
        root / 'img',
        '--labels',
        root / 'ann',
        '--classes',
        *CLASSES,
        '--out',
        out or root / 'out',
        *more,
    )


@pytest.fixture(scope='module')
def relabelled(tmp_path_factory):
    root = tmp_path_factory.mktemp('edits')
    truth = write_edits(root)
    assert relabel(root) == 0
    return root, truth


def rows_of(path):
    with path.open(newline='') as file:
        return list(csv.DictReader(file))


def write_review(path, rows):
    with path.open('w', newline='') as file:
        writer = csv.DictWriter(file, ['name', 'decision', 'corrected'])
        writer.writeheader()
        writer.writerows(rows)


def test_relabel_writes_labels_list_table_and_sheets(relabelled):
    root, truth = relabelled
    for name, label in truth.items():
        found = np.array(Image.open(root / 'out' / 'labels' / f'{name}.png'))
        assert not (found == 1).any(), 'the gold defect has gone'
        assert ((found == 2) & (label == 2)).sum() / ((found == 2) | (label == 2)).sum() > 0.7
    content = json.loads((root / 'out' / 'relabel.json').read_text())
    assert [e['name'] for e in content['entries']] == sorted(truth)
    assert all(e['fates'] == dict(kept=0, changed=0, vanished=1, new=1) for e in content['entries'])
    rows = rows_of(root / 'out' / 'review.csv')
    assert [r['verdict'] for r in rows] == ['accept'] * 4 and {r['sheet'] for r in rows} == {'sheet_001.jpg'}
    assert np.array(Image.open(root / 'out' / 'sheets' / 'sheet_001.jpg')).shape[1] > 5 * SIZE


def test_pack_takes_new_labels_and_says_where_they_come_from(relabelled, tmp_path):
    root, _ = relabelled
    assert run('pack', root / 'out', '--out', tmp_path / 'set') == 0
    packed = read_pack(tmp_path / 'set')
    assert packed.classes == CLASSES and packed.labels == 'relabelled' and len(packed.images) == 4
    for image in packed.images:
        label = np.array(Image.open(tmp_path / 'set' / image.label))
        assert np.array_equal(label, np.array(Image.open(root / 'out' / 'labels' / f'{image.entry["name"]}.png')))
        assert image.entry['source'] == image.entry['name'][4:] + '.png' and len(image.entry['source_sha256']) == 64
        assert image.entry['defect_pixels'] == {'1': 0, '2': int((label == 2).sum())}
        assert {'seed', 'prompt', 'model', 'mask', 'checks', 'fates', 'decided_by'} <= set(image.entry)


def test_copied_labels_are_asked_for(relabelled, tmp_path):
    root, _ = relabelled
    assert run('pack', root / 'out', '--copy-labels', '--out', tmp_path / 'set') == 0
    packed = read_pack(tmp_path / 'set')
    assert packed.labels == 'copied'
    for image in packed.images:
        assert np.array_equal(
            np.array(Image.open(tmp_path / 'set' / image.label)),
            np.array(Image.open(root / 'ann' / image.entry['source'])),
        )
    arguments = ['--edits', root / 'edits', '--prefix', 'new_', '--sources', root / 'img', '--labels', root / 'ann']
    assert run('pack', '--copy-labels', *arguments, '--classes', *CLASSES, '--out', tmp_path / 'again') == 0
    first, again = (json.loads((tmp_path / s / FILE).read_text())['images'] for s in ('set', 'again'))
    assert [i['defect_pixels'] for i in first] == [i['defect_pixels'] for i in again]


def test_a_reviewer_is_heard(relabelled, tmp_path):
    root, _ = relabelled
    drawn = np.zeros((SIZE, SIZE), np.uint8)
    drawn[5:9, 5:9] = 1
    Image.fromarray(drawn).save(tmp_path / 'mine.png')
    write_review(
        tmp_path / 'review.csv',
        [
            dict(name='new_part0', decision='reject', corrected=''),
            dict(name='new_part1', decision='Accept ', corrected='mine.png'),
        ],
    )
    assert run('pack', root / 'out', '--review', tmp_path / 'review.csv', '--out', tmp_path / 'set') == 0
    packed = {i.entry['name']: i for i in read_pack(tmp_path / 'set').images}
    assert sorted(packed) == ['new_part1', 'new_part2', 'new_part3']
    assert [packed[n].entry['decided_by'] for n in sorted(packed)] == ['reviewer', 'check', 'check']
    assert np.array_equal(np.array(Image.open(tmp_path / 'set' / packed['new_part1'].label)), drawn)


def test_rejections_are_honoured_and_can_be_overruled(tmp_path):
    write_edits(tmp_path)
    noise = np.random.default_rng(0).integers(60, 110, (SIZE, SIZE, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / 'edits' / 'new_part2.png')
    assert relabel(tmp_path) == 0
    rows = {r['name']: r for r in rows_of(tmp_path / 'out' / 'review.csv')}
    assert rows['new_part2']['verdict'] == 'reject' and 'geometry' in rows['new_part2']['reasons']
    assert run('pack', tmp_path / 'out', '--out', tmp_path / 'set') == 0
    assert 'new_part2' not in {i.entry['name'] for i in read_pack(tmp_path / 'set').images}

    table = tmp_path / 'out' / 'review.csv'
    table.write_text(table.read_text().replace('sheet_001.jpg,,', 'sheet_001.jpg,accept,', 3))
    assert relabel(tmp_path) == 0, 'a second run keeps the decisions'
    assert [r['decision'] for r in rows_of(table)] == ['accept'] * 3 + ['']
    assert run('pack', tmp_path / 'out', '--out', tmp_path / 'more') == 0
    assert {i.entry['name']: i.entry['automatic'] for i in read_pack(tmp_path / 'more').images}['new_part2'] is False


def test_a_generated_set_brings_masks_prompts_and_seeds(relabelled, tmp_path):
    root, truth = relabelled
    manifest = Manifest(tmp_path / 'set')
    manifest.start(dict(kind='test'))
    for index, name in enumerate(sorted(truth)):
        for folder, source in (('images', root / 'edits' / f'{name}.png'),):
            (tmp_path / 'set' / folder).mkdir(exist_ok=True)
            (tmp_path / 'set' / folder / f'{name}.png').write_bytes(source.read_bytes())
        mask = np.zeros((SIZE, SIZE), np.uint8)
        mask[100:125, 50:95] = 255  # where the white defect is; the gold one vanishes outside
        (tmp_path / 'set' / 'masks').mkdir(exist_ok=True)
        Image.fromarray(mask).save(tmp_path / 'set' / 'masks' / f'{name}.png')
        manifest.append(
            Record(
                name,
                f'images/{name}.png',
                str(root / 'img' / f'{name[4:]}.png'),
                40 + index,
                'a defect',
                'tiny',
                mask=f'masks/{name}.png',
                source_label=str(root / 'ann' / f'{name[4:]}.png'),
            )
        )
    assert (
        run(
            'relabel --edits',
            tmp_path / 'set',
            '--learn-images',
            root / 'img',
            '--learn-labels',
            root / 'ann',
            '--classes',
            *CLASSES,
            '--out',
            tmp_path / 'out',
            '--outside 0.05',
        )
        == 0
    )
    assert run('pack', tmp_path / 'out', '--out', tmp_path / 'packed') == 0
    entries = [i.entry for i in read_pack(tmp_path / 'packed').images]
    assert [e['seed'] for e in entries] == [40, 41, 42, 43]
    assert {(e['prompt'], e['model']) for e in entries} == {('a defect', 'tiny')}
    assert all(e['checks']['changed_inside'] > 0.02 and e['mask'] for e in entries)


def test_probability_maps_vote(relabelled, tmp_path):
    root, truth = relabelled
    votes = np.zeros((3, SIZE, SIZE), np.float16)
    votes[1] = 0.8
    for name in truth:
        np.save(tmp_path / f'{name}.npy', votes)
    assert relabel(root, '--probabilities', tmp_path, out=tmp_path / 'out') == 0
    content = json.loads((tmp_path / 'out' / 'relabel.json').read_text())
    assert {c['class_id'] for e in content['entries'] for c in e['components'] if c['fate'] == 'new'} == {1}


def test_bad_input_is_named(relabelled, tmp_path, capsys):
    root, _ = relabelled
    known = ['--sources', root / 'img', '--labels', root / 'ann']
    cases = [
        (['relabel', '--edits', root / 'edits', '--classes', *CLASSES, '--out', tmp_path], '--sources'),
        (
            ['relabel', '--edits', root / 'edits', '--sources', root / 'img', '--classes', *CLASSES, '--out', tmp_path],
            '--prefix',
        ),
        (
            ['relabel --prefix new_', '--edits', root / 'edits', *known, '--classes', *CLASSES[:2], '--out', tmp_path],
            'name all classes',
        ),
        (['pack', tmp_path, '--out', tmp_path / 'set'], 'relabel first'),
        (['pack', '--out', tmp_path / 'set'], '--copy-labels'),
        (['pack', root / 'out', '--out', root / 'img'], 'must not exist'),
    ]
    for arguments, words in cases:
        assert run(*arguments) == 2
        message = capsys.readouterr().err
        assert message.startswith('error: ') and words in message, message
    assert not (tmp_path / 'set').exists() and not list(tmp_path.glob('.*'))


@pytest.mark.parametrize(
    'row, words',
    [
        (dict(name='new_part0', decision='maybe'), 'accept, reject or empty'),
        (dict(name='nobody', decision='accept'), 'no edit is named'),
        (dict(name='new_part0', decision='accept', corrected='nothing.png'), 'corrected'),
    ],
)
def test_a_wrong_review_is_named(tmp_path, row, words):
    write_review(tmp_path / 'review.csv', [row])
    with pytest.raises(ValueError, match=words):
        read_decisions(tmp_path / 'review.csv', ['new_part0'])


def test_an_interrupted_pack_leaves_nothing(relabelled, tmp_path, monkeypatch):
    root, _ = relabelled
    from mmdefect.diffusion import pack

    def stop(items, text, total):
        yield items[0]
        raise KeyboardInterrupt

    monkeypatch.setattr(pack, 'track', stop)
    with pytest.raises(KeyboardInterrupt):
        pack.pack_relabelled(root / 'out', tmp_path / 'set', {})
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match='packed set'):
        read_pack(tmp_path / 'set')


def test_a_full_disk_is_explained(relabelled, tmp_path, monkeypatch):
    root, _ = relabelled
    from mmdefect.diffusion import pack

    def full(path, photo):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(pack, 'write_image', full)
    with pytest.raises(OSError, match='disk must have room'):
        pack.pack_relabelled(root / 'out', tmp_path / 'set', {})
    assert not list(tmp_path.iterdir())
