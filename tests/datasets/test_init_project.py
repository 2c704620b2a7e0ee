"""From photographs to a project: what a new user sees, what is written, and every way it can fail."""

from __future__ import annotations

import io
import json
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config

from mmdefect.apis.compose import iter_heads
from mmdefect.apis.config import load_config
from mmdefect.datasets.census import WIDTH, make_console
from mmdefect.datasets.project import init_project, plan_split, survey_folder
from mmdefect.datasets.split_file import read_split
from mmdefect.registry import DATASETS
from tests.helpers.data import SIZE_HW, draw_image, draw_label, save, write_combined, write_mvtec, write_visa, write_wta

TOOL = Path(__file__).resolve().parents[2] / 'tools' / 'init_project.py'


def write_photographs(root, count=10, clean=0, size_hw=(60, 80), seed=0):
    """Photographs of two kinds of defect, masks 0/1/2 beside them."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        save(root / f'images/part{index}.png', draw_image(rng, size_hw))
        save(root / f'masks/part{index}.png', draw_label(rng, [1 + index % 2], size_hw))
    for index in range(clean):
        save(root / f'good/ok{index}.png', draw_image(rng, size_hw))
    return root


def names_by_split(file):
    return {name: {e.image for e in entries} for name, entries in read_split(file).splits.items()}


def test_ten_photographs(tmp_path):
    data = write_photographs(tmp_path / 'photos')
    stream = io.StringIO()
    project = init_project(
        data, 'mypart', tmp_path / 'configs', class_names=['pit', 'cut'], console=make_console(stream)
    )
    sides = names_by_split(project.split_file)
    assert {name: len(side) for name, side in sides.items()} == {'train': 6, 'val': 2, 'test': 2}
    assert len(set.union(*sides.values())) == 10
    counts = read_split(project.split_file).counts()
    assert counts == {'train': {'pit': 3, 'cut': 3}, 'val': {'pit': 1, 'cut': 1}, 'test': {'pit': 1, 'cut': 1}}
    assert json.loads(project.census_file.read_text())['images'] == 10
    text = stream.getvalue()
    table = text[: text.index('wrote')]
    assert max(map(len, table.splitlines())) <= WIDTH
    assert '10: 10 with defects, 0 without' in text and 'train 6 (0 clean), val 2 (0 clean), test 2 (0 clean)' in text
    configs = ' '.join(map(str, project.configs))
    assert f'METRIC=fg_AP PROJECT_NAME=mypart GPU_COUNT=0 bash bash/run_main.sh {configs}\n' in text
    assert 'the checkpoint with the best fg_AP is kept' in text
    assert f'python tools/train.py {project.configs[-1]}\n' in text


def test_configs_compose_and_their_data_load(tmp_path):
    data = write_photographs(tmp_path / 'photos', clean=4)
    project = init_project(data, 'mypart', tmp_path / 'configs', class_names=['pit', 'cut'])
    baseline, recommended, frozen = (load_config(c) for c in project.configs)
    assert len(project.configs[1].read_text().splitlines()) <= 16
    for cfg in (baseline, recommended, frozen):
        assert cfg.classes == ('normal', 'pit', 'cut') and cfg.image_scale == (80, 60)
        assert all(head.num_classes == 3 for head in iter_heads(cfg))
    assert recommended.crop_size == (64, 96) and baseline.crop_size == (256, 256)
    assert all(head.loss_decode.class_weight == list(recommended.class_weight) for head in iter_heads(recommended))
    assert all(
        'class_weight' not in head.loss_decode or head.loss_decode.class_weight is None for head in iter_heads(baseline)
    )
    weights = recommended.class_weight
    for head in iter_heads(frozen):
        assert head.loss_decode.type == 'SoftmaxFocalLoss'
        assert head.loss_decode.alpha == pytest.approx([w / sum(weights) for w in weights], abs=1e-4)
    assert frozen.train_dataloader.sampler.defective_share == 0.5
    assert frozen.model.backbone.frozen_stages == frozen.model.backbone.num_stages == 3
    crops = [t for t in recommended.train_dataloader.dataset.pipeline if t.type == 'RandomCrop']
    assert [t.crop_size for t in crops] == [(64, 96)]
    steps = [[t.type for t in cfg.train_dataloader.dataset.pipeline] for cfg in (baseline, recommended, frozen)]
    assert ['SynthesizeDefects' in names for names in steps] == [False, True, True]
    loaders = ('train_dataloader', 'val_dataloader', 'test_dataloader')
    sizes = [len(DATASETS.build(recommended[name].dataset)) for name in loaders]
    assert sum(sizes) == 14 and min(sizes) >= 2
    item = DATASETS.build(recommended.train_dataloader.dataset)[0]
    assert item['inputs'].shape[1] <= 64 and item['inputs'].shape[2] <= 96  # the preprocessor pads to the crop


def test_without_clean_images_defects_go_beside_those_that_are_there(tmp_path):
    project = init_project(
        write_photographs(tmp_path / 'photos'), 'mypart', tmp_path / 'configs', class_names=['pit', 'cut']
    )
    recommended = load_config(project.configs[1])
    step = next(t for t in recommended.train_dataloader.dataset.pipeline if t.type == 'SynthesizeDefects')
    assert step.probability == dict(clean=0.0, defective=0.5)
    assert recommended.train_dataloader.sampler.defective_share == 1.0


@pytest.mark.parametrize(('count', 'pastes'), [(32, True), (34, False)])
def test_pastes_are_for_few_images_and_small_crops_ask_for_defects(tmp_path, count, pastes):
    """Half of the images have each class; no crop is larger than 512."""
    data = write_photographs(tmp_path / 'photos', count, clean=4, size_hw=(540, 560))
    project = init_project(data, 'mypart', tmp_path / 'configs', class_names=['pit', 'cut'])
    baseline, *tuned = (load_config(c) for c in project.configs)
    for cfg in tuned:
        steps = {t.type: t for t in cfg.train_dataloader.dataset.pipeline}
        assert ('SynthesizeDefects' in steps) == pastes
        assert tuple(steps['DefectCrop'].crop_size) == tuple(cfg.crop_size) and 'RandomCrop' not in steps
    assert 'DefectCrop' not in [t.type for t in baseline.train_dataloader.dataset.pipeline]
    assert ("paste_poisson.py' has them." in project.configs[1].read_text()) == (not pastes)


@pytest.mark.parametrize('clean', [30, 50])
def test_without_pastes_rare_defects_are_drawn_as_often_as_clean_images(tmp_path, clean):
    project = init_project(write_photographs(tmp_path / 'photos', 40, clean=clean), 'mypart', tmp_path / 'configs')
    baseline, recommended, frozen = (load_config(c).train_dataloader for c in project.configs)
    plain = dict(type='DefectSampler', shuffle=True)
    wanted = dict(type='MixingSampler', defective_share=0.5, shuffle=True) if clean > 40 else plain
    assert (baseline.sampler, recommended.sampler, frozen.sampler) == (plain, wanted, wanted)
    assert (baseline.batch_size, recommended.batch_size, frozen.batch_size) == (8, 8, 4)
    assert len(project.configs[2].read_text().splitlines()) <= 22


def test_project_folder_can_be_moved(tmp_path):
    data = write_photographs(tmp_path / 'photos')
    project = init_project(data, 'mypart', tmp_path / 'configs')
    project.folder.rename(tmp_path / 'elsewhere')
    cfg = Config.fromfile(str(tmp_path / 'elsewhere' / project.configs[0].name))
    assert Path(cfg.split_file) == tmp_path / 'elsewhere' / 'split.json'


def test_same_seed_same_split_and_another_seed_another(tmp_path):
    data = write_photographs(tmp_path / 'photos', 20)
    files = [init_project(data, f'p{k}', tmp_path, seed=seed).split_file for k, seed in enumerate((3, 3, 4))]
    assert files[0].read_text() == files[1].read_text()
    assert names_by_split(files[0]) != names_by_split(files[2])


def test_exact_and_look_alike_images_stay_together(tmp_path):
    data = write_photographs(tmp_path / 'photos', 12)
    for original, copy in (('part0', 'part6'), ('part1', 'part7')):
        (data / f'images/{copy}.png').write_bytes((data / f'images/{original}.png').read_bytes())
    for seed in range(4):
        project = init_project(data, f'p{seed}', tmp_path, seed=seed)
        for side in names_by_split(project.split_file).values():
            assert ('images/part0.png' in side) == ('images/part6.png' in side)
            assert ('images/part1.png' in side) == ('images/part7.png' in side)


def test_group_file(tmp_path):
    data = write_photographs(tmp_path / 'photos', 12)
    groups = [['part0', 'part4', 'part8'], ['part1', 'part3']]
    (tmp_path / 'groups.json').write_text(json.dumps(groups))
    for seed in range(3):
        project = init_project(data, f'p{seed}', tmp_path, seed=seed, group_file=tmp_path / 'groups.json')
        for side in names_by_split(project.split_file).values():
            stems = {Path(i).stem for i in side}
            assert all(len(stems & set(g)) in (0, len(g)) for g in groups)


def test_given_split_folders_are_kept(tmp_path):
    labels = write_wta(tmp_path / 'wta', dict(train=6, val=3, test=3))
    project = init_project(tmp_path / 'wta', 'wta', tmp_path, class_names=['attached', 'broken'])
    assert names_by_split(project.split_file) == {
        s: {n for n in labels if f'/{s}/' in n} for s in ('train', 'val', 'test')
    }
    redrawn = init_project(tmp_path / 'wta', 'redrawn', tmp_path, fractions=(0.5, 0.25, 0.25))
    assert names_by_split(redrawn.split_file) != names_by_split(project.split_file)


def test_missing_val_is_drawn_from_train(tmp_path):
    labels = write_wta(tmp_path / 'wta', dict(train=15, test=3))
    stream = io.StringIO()
    project = init_project(tmp_path / 'wta', 'wta', tmp_path, console=make_console(stream))
    sides = names_by_split(project.split_file)
    assert sides['test'] == {n for n in labels if '/test/' in n}
    assert sides['train'] | sides['val'] == {n for n in labels if '/train/' in n}
    assert len(sides['val']) == 3 and 'val drawn from train' in stream.getvalue()


def test_a_training_folder_of_clean_images_is_divided_anew(tmp_path):
    write_mvtec(tmp_path / 'mvtec', {'bottle': ('crack', 'stain')})
    project = init_project(tmp_path / 'mvtec/bottle', 'bottle', tmp_path)
    counts = read_split(project.split_file).counts()
    assert all({'crack', 'stain', 'good'} <= set(counts[s]) for s in ('train', 'val', 'test'))


def test_a_folder_of_other_configs_is_not_written_into(tmp_path):
    """As with `--name fpn` beside the shipped configs, where nothing of the same name would be in the way."""
    shipped = tmp_path / 'configs' / 'fpn'
    shipped.mkdir(parents=True)
    (shipped / 'fpn_r50.py').write_text('')
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match='fpn holds other configs, such as fpn_r50.py; choose another name'):
            init_project(tmp_path / 'absent', 'fpn', tmp_path / 'configs', overwrite=overwrite)  # said before the scan
    assert [path.name for path in shipped.iterdir()] == ['fpn_r50.py']


def test_overwrite_and_nothing_half_written(tmp_path, monkeypatch):
    data = write_photographs(tmp_path / 'photos', 20)
    project = init_project(data, 'mypart', tmp_path / 'configs')
    (project.folder / 'mine.py').write_text('x = 1')
    before = project.split_file.read_text()
    with pytest.raises(FileExistsError, match='mypart must be new, but .*split.json exists; .*--overwrite'):
        init_project(data, 'mypart', tmp_path / 'configs', seed=1)
    assert project.split_file.read_text() == before
    init_project(data, 'mypart', tmp_path / 'configs', seed=1, overwrite=True)
    assert project.split_file.read_text() != before and (project.folder / 'mine.py').is_file()
    monkeypatch.setattr('mmdefect.datasets.project.render_config', lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        init_project(data, 'second', tmp_path / 'configs')
    assert sorted(p.name for p in (tmp_path / 'configs').iterdir()) == ['mypart']


@pytest.mark.parametrize(
    'arguments, error, says',
    [
        (dict(name='my part'), ValueError, '`--name` must consist of letters'),
        (dict(name='../x'), ValueError, '`--name` must consist of letters'),
        (dict(data_dir='absent'), FileNotFoundError, '`DATA_DIR` must be a folder'),
        (dict(fractions=(0.5, 0.2, 0.2)), ValueError, 'add up to 1'),
        (dict(fractions=(1.0, 0.0, 0.0)), ValueError, 'the val split must hold at least one image'),
        (dict(encoding='binary', class_names=['a', 'b']), ValueError, '`class_names` must be 1 distinct names'),
        (dict(class_names=['a']), ValueError, '`class_names` must be 2 distinct names'),
        (dict(group_file='absent.json'), ValueError, 'the group file absent.json must be readable'),
    ],
)
def test_bad_arguments_write_nothing(tmp_path, arguments, error, says):
    data = write_photographs(tmp_path / 'photos', 4)
    with pytest.raises(error) as info:
        init_project(**dict(dict(data_dir=data, name='mypart', out=tmp_path / 'configs'), **arguments))
    assert says in str(info.value)
    assert not (tmp_path / 'configs').exists()


def test_too_few_photographs(tmp_path):
    with pytest.raises(ValueError, match='the (val|test) split must hold at least one image, but the 2 images'):
        init_project(write_photographs(tmp_path / 'photos', 2), 'mypart', tmp_path)


def test_split_without_defects(tmp_path):
    data = write_photographs(tmp_path / 'photos', 2, clean=9)
    with pytest.raises(ValueError, match='split must hold at least one image with a defect'):
        init_project(data, 'mypart', tmp_path)


def test_leak_between_given_folders(tmp_path):
    write_wta(tmp_path / 'wta')
    source = tmp_path / 'wta/img_dir/train/[0001]top.png'
    (tmp_path / 'wta/img_dir/test/[0001]top.png').write_bytes(source.read_bytes())
    with pytest.raises(ValueError, match=r'train/\[0001\]top.png.*test/\[0001\]top.png.*--split 0.6 0.2 0.2'):
        init_project(tmp_path / 'wta', 'wta', tmp_path)
    init_project(tmp_path / 'wta', 'wta', tmp_path, fractions=(0.4, 0.3, 0.3))


def test_no_permission_is_said_before_the_work(tmp_path, monkeypatch):
    def refuse(dir):
        raise PermissionError(13, 'Permission denied')

    data = write_photographs(tmp_path / 'photos', 4)
    monkeypatch.setattr('mmdefect.datasets.project.tempfile.TemporaryFile', refuse)
    monkeypatch.setattr('mmdefect.datasets.project.survey_folder', lambda *_: pytest.fail('looked at the data first'))
    with pytest.raises(PermissionError, match=r'must be writable, but .* fails \(Permission denied\).*--out'):
        init_project(data, 'mypart', tmp_path / 'configs')


def test_out_that_is_a_file(tmp_path):
    (tmp_path / 'configs').write_text('')
    with pytest.raises(NotADirectoryError, match='`--out` must be a folder'):
        init_project(write_photographs(tmp_path / 'photos', 4), 'mypart', tmp_path / 'configs')


def test_tool(tmp_path, monkeypatch, capsys):
    data = write_photographs(tmp_path / 'photos')
    arguments = [TOOL, data, '--name', 'mypart', '--out', tmp_path / 'configs', '--classes', 'pit', 'cut']
    monkeypatch.setattr(sys, 'argv', list(map(str, arguments)))
    main = runpy.run_path(str(TOOL), run_name='tool')['main']
    assert main() == 0
    said = capsys.readouterr()
    assert said.out.startswith('census of') and 'bash bash/run_main.sh' in said.out and not said.err
    assert len(list((tmp_path / 'configs/mypart').iterdir())) == 5
    assert main() == 2
    said = capsys.readouterr()
    assert said.err.startswith('error: ') and len(said.err.splitlines()) == 1 and '--overwrite' in said.err
    assert not said.out


def test_the_division_of_visa_is_kept_but_for_a_validation(tmp_path):
    write_visa(tmp_path / 'visa', ('nut',))
    project = init_project(tmp_path / 'visa', 'nut', tmp_path, division='2cls_highshot')
    counts = read_split(project.split_file).counts()
    assert counts['test'] == {'Anomaly': 3, 'good': 2}
    assert {t: counts['train'][t] + counts['val'][t] for t in counts['test']} == {'Anomaly': 3, 'good': 8}
    rows = (tmp_path / 'visa/split_csv/2cls_highshot.csv').read_text().splitlines()
    assert names_by_split(project.split_file)['test'] == {r.split(',')[3] for r in rows if ',test,' in r}


def test_combined_folders_keep_their_split_and_good_images_join_it(tmp_path):
    """``good/`` has no split of its own: it is divided, and no given image moves."""
    write_combined(tmp_path / 'data', dict(train=6, val=3, test=5), good=12, object_masks=False)
    shutil.copy(tmp_path / 'data/good/000.png', tmp_path / 'data/Combined/test/copy.png')
    save(tmp_path / 'data/Combined/test_gt/copy_mask.png', np.zeros(SIZE_HW, np.uint8))
    survey = survey_folder(tmp_path / 'data')
    split = plan_split(survey)
    side = {e.image: name for name, entries in split.splits.items() for e in entries}
    given = {image: name for image, name in side.items() if image.startswith('Combined/')}
    assert len(given) == 15 and all(image.split('/')[1] == name for image, name in given.items())
    assert side['good/000.png'] == 'test'  # the same pixels are a test image
    good = [name for image, name in side.items() if image.startswith('good/')]
    assert len(good) == 12 and set(good) == {'train', 'val', 'test'}
    assert plan_split(survey).splits == split.splits
