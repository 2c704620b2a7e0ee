from __future__ import annotations

import shutil
from collections import Counter

import pytest

from mmdefect.datasets import MVTecDataset
from mmdefect.datasets.mvtec import scan_mvtec
from tests.datasets.labels import LOAD, assert_labels, part
from tests.helpers.data import write_mvtec, write_visa
from tests.helpers.realdata import real_data


def test_labels_as_downloaded(tmp_path):
    truth = write_mvtec(tmp_path)
    assert_labels(MVTecDataset(data_root=str(tmp_path), pipeline=LOAD), truth)
    assert_labels(
        MVTecDataset(data_root=str(tmp_path), split='train', pipeline=LOAD),
        {n: label for n, label in truth.items() if '/train/' in n},
    )
    assert_labels(
        MVTecDataset(data_root=str(tmp_path), category='bottle', split='test', pipeline=LOAD),
        part(truth, 'bottle/test/'),
    )


def test_one_category_folder_as_root(tmp_path):
    truth = {n.split('/', 1)[1]: label for n, label in part(write_mvtec(tmp_path), 'bottle/').items()}
    dataset = MVTecDataset(data_root=str(tmp_path / 'bottle'), pipeline=LOAD)
    assert_labels(dataset, truth)
    assert dataset.get_data_info(0)['category'] == 'bottle'


@pytest.mark.parametrize('mask_value', [1, 255])
def test_visa_one_class(tmp_path, mask_value):
    truth = write_mvtec(tmp_path, {'pcb': ['bad']}, image_suffix='.JPG', mask_suffix='.png', mask_value=mask_value)
    dataset = MVTecDataset(data_root=str(tmp_path), pipeline=LOAD)
    assert dataset.metainfo['classes'] == ('normal', 'defect')
    assert_labels(dataset, truth)


def test_one_class_per_type_is_the_sorted_union(tmp_path):
    truth = write_mvtec(tmp_path)  # bottle: crack, stain; screw: crack, bent
    dataset = MVTecDataset(data_root=str(tmp_path), classes='types', pipeline=LOAD)
    assert dataset.metainfo['classes'] == ('normal', 'bent', 'crack', 'stain')
    assert len(dataset.metainfo['palette']) == 4
    ids = dict(good=0, bent=1, crack=2, stain=3)
    assert_labels(dataset, {n: label * ids[n.split('/')[2]] for n, label in truth.items()})


def test_classes_do_not_depend_on_the_split(tmp_path):
    write_mvtec(tmp_path)
    for split in ('train', 'test'):
        assert len(MVTecDataset(data_root=str(tmp_path), classes='types', split=split).metainfo['classes']) == 4


@pytest.mark.parametrize('as_metainfo', [True, False])
def test_explicit_classes(tmp_path, as_metainfo):
    truth = write_mvtec(tmp_path)
    classes = ['normal', 'stain', 'other', 'crack', 'bent']
    options = dict(metainfo=dict(classes=classes)) if as_metainfo else dict(classes=classes)
    dataset = MVTecDataset(data_root=str(tmp_path), pipeline=LOAD, **options)
    ids = dict(good=0, stain=1, crack=3, bent=4)
    assert_labels(dataset, {n: label * ids[n.split('/')[2]] for n, label in truth.items()})


def test_two_names_rename_the_one_class(tmp_path):
    truth = write_mvtec(tmp_path)
    dataset = MVTecDataset(data_root=str(tmp_path), classes=('normal', 'anomaly'), pipeline=LOAD)
    assert dataset.metainfo['classes'] == ('normal', 'anomaly')
    assert_labels(dataset, truth)


def test_entries_say_type_and_category(tmp_path):
    write_mvtec(tmp_path)
    dataset = MVTecDataset(data_root=str(tmp_path))
    infos = [dataset.get_data_info(i) for i in range(len(dataset))]
    assert Counter((i['category'], i['defect_type']) for i in infos) == {
        ('bottle', 'good'): 7,
        ('bottle', 'crack'): 6,
        ('bottle', 'stain'): 6,
        ('screw', 'good'): 7,
        ('screw', 'crack'): 6,
        ('screw', 'bent'): 6,
    }
    assert all((i['seg_map_path'] is None) == (i['defect_type'] == 'good') for i in infos)


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(category='lens'), r"'lens' is not one; found: bottle, screw"),
        (dict(category=['bottle', 'nut']), r"'nut' is not one; found: bottle, screw"),
        (dict(split='val'), r"split 'val', but its folders give \['test', 'train'\].*split_dataset"),
        (dict(classes='type'), r"`classes` must be 'binary', 'types' or a list .* \['bent', 'crack', 'stain'\]"),
        (dict(classes=['normal', 'crack']), r"\['bent', 'stain'\] are missing"),
        (dict(classes=['crack', 'bent', 'stain']), "must start with 'normal'"),
        (dict(classes=['normal', 'crack', 'crack']), 'name each class once'),
    ],
)
def test_wrong_settings(tmp_path, options, message):
    write_mvtec(tmp_path)
    with pytest.raises(ValueError, match=message):
        MVTecDataset(data_root=str(tmp_path), **options)


def test_missing_mask_is_named(tmp_path):
    write_mvtec(tmp_path)
    (tmp_path / 'screw/ground_truth/bent/003_mask.png').unlink()
    with pytest.raises(ValueError, match=r'bent/003\.png must have a mask .*ground_truth/bent/003_mask\.png'):
        MVTecDataset(data_root=str(tmp_path))
    MVTecDataset(data_root=str(tmp_path), category='bottle')


def test_defects_in_the_training_folder(tmp_path):
    write_mvtec(tmp_path)
    shutil.copytree(tmp_path / 'screw/test/bent', tmp_path / 'screw/train/bent')
    with pytest.raises(ValueError, match='train must hold only good/, but it holds bent/'):
        MVTecDataset(data_root=str(tmp_path))


def test_no_category_at_all(tmp_path):
    (tmp_path / 'images').mkdir()
    with pytest.raises(ValueError, match='must hold images in the layout of MVTecDataset'):
        MVTecDataset(data_root=str(tmp_path))


def test_visa_as_downloaded(tmp_path):
    truth = write_visa(tmp_path)
    assert_labels(MVTecDataset(data_root=str(tmp_path), pipeline=LOAD), truth)
    one_class = MVTecDataset(data_root=str(tmp_path), category='nut', split='train')
    assert [i['defect_type'] for i in one_class] == ['good'] * 8  # the layout's own division is 1cls
    half = MVTecDataset(data_root=str(tmp_path / 'nut'), split='train', division='2cls_highshot', pipeline=LOAD)
    assert Counter(i['defect_type'] for i in half) == dict(good=8, anomaly=3)
    expected = {n.split('/', 1)[1]: v for n, v in part(truth, 'nut/').items() if int(n[-7:-4]) < (8 if 'N' in n else 3)}
    assert_labels(half, expected)


def test_a_division_must_fit_the_images(tmp_path):
    write_visa(tmp_path, ('pcb',))
    with pytest.raises(ValueError, match='found: 1cls, 2cls_highshot'):
        MVTecDataset(data_root=str(tmp_path), division='2cls_fewshot')
    (tmp_path / 'pcb/Data/Images/Normal/003.JPG').unlink()
    with pytest.raises(ValueError, match=r'Normal/003\.JPG, which is not in'):
        MVTecDataset(data_root=str(tmp_path), division='2cls_highshot')
    file = tmp_path / 'own.csv'
    file.write_text('object,split,label,image,mask\npcb,validation,normal,a.png,\n')
    with pytest.raises(ValueError, match='line 2 is'):
        MVTecDataset(data_root=str(tmp_path), division=str(file))
    write_mvtec(tmp_path / 'mvtec')
    with pytest.raises(ValueError, match='leave it out'):
        MVTecDataset(data_root=str(tmp_path / 'mvtec'), division=str(file))


def test_without_a_division_visa_has_no_sides(tmp_path):
    write_visa(tmp_path, ('pcb',))
    shutil.rmtree(tmp_path / 'split_csv')
    assert len(MVTecDataset(data_root=str(tmp_path))) == 16
    with pytest.raises(ValueError, match='no splits'):
        len(MVTecDataset(data_root=str(tmp_path), split='train'))


def test_macaroni1_by_its_official_division():
    root = real_data('visa_macaroni1')
    sizes = {
        split: Counter(s.defect_type for s in scan_mvtec(str(root), division='2cls_highshot') if s.own_split == split)
        for split in ('train', 'test')
    }
    assert sizes == dict(train=dict(good=130, anomaly=60), test=dict(good=90, anomaly=40))
