import json

import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import init_default_scope
from torch.utils.data import DataLoader

from mmdefect.datasets.transforms import (
    CutPaste,
    DefectCrop,
    LoadLocationMap,
    PasteDefects,
    PerlinAnomaly,
    SynthesizeDefects,
)
from mmdefect.engine.samplers import DefectSampler, MixingSampler
from mmdefect.registry import DATASETS
from mmdefect.synthesis.places import FIRST_CODE
from tests.helpers.data import save
from tests.helpers.defects import FRAME_HW, OBJECT, draw_part, labelled_parts, library_of_parts


@pytest.fixture(scope='module', autouse=True)
def scope():
    init_default_scope('mmseg')


@pytest.fixture(scope='module')
def library(tmp_path_factory):
    return library_of_parts(tmp_path_factory.mktemp('library'))


@pytest.fixture(scope='module')
def data_root(tmp_path_factory):
    """Parts in the layout of the WTA set."""
    root = tmp_path_factory.mktemp('data')
    for split, seed in (('train', 0), ('val', 1)):
        for index, (image, label) in enumerate(labelled_parts(6, seed)):
            save(root / 'img_dir' / split / f'{index}.png', image)
            save(root / 'ann_dir' / split / f'{index}.png', label)
    return root


def results_of(seed=0, **more):
    image = draw_part(np.random.default_rng(0))
    results = dict(
        img=image,
        img_path='a.png',
        gt_seg_map=np.zeros(FRAME_HW, np.uint8),
        seg_fields=['gt_seg_map'],
        ori_shape=FRAME_HW,
        sample_seed=seed,
    )
    return LoadLocationMap().transform(results) | more


def make(name, library):
    return dict(
        CutPaste=lambda: CutPaste(ranges=dict(area_fraction_range=(0.01, 0.05))),
        PasteDefects=lambda: PasteDefects(library, dict(places=dict(even=1))),
        PerlinAnomaly=lambda: PerlinAnomaly(ranges=dict(octave_range=(2, 5), threshold=0.3)),
    )[name]()


@pytest.mark.parametrize('name', ['CutPaste', 'PasteDefects', 'PerlinAnomaly'])
def test_pixels_labels_and_records_agree(name, library):
    transform, made = make(name, library), 0
    for seed in range(10):
        before = results_of(seed)
        image = before['img'].copy()
        after = transform(dict(before))
        np.testing.assert_array_equal(before['img'], image)  # the input keeps its pixels
        assert after['img'].dtype == np.uint8 and after['gt_seg_map'].dtype == np.uint8
        changed = np.abs(after['img'].astype(int) - image).max(-1) > 1.5
        np.testing.assert_array_equal(changed, after['gt_seg_map'] > 0)
        assert not after['gt_seg_map'][before['gt_location_map'] < FIRST_CODE].any()
        assert json.loads(json.dumps(after['instances'])) == after['instances']
        for instance in after['instances']:
            left, top, right, bottom = instance['box_xyxy']
            assert (after['gt_seg_map'][top:bottom, left:right] == instance['class_index']).any()
        made += len(after['instances'])
        assert len(after['instances']) + sum(after['synthesis_skipped'].values()) >= 1
    assert made >= 8


@pytest.mark.parametrize('name', ['CutPaste', 'PasteDefects', 'PerlinAnomaly'])
def test_the_seed_of_the_sample_decides(name, library):
    transform = make(name, library)
    first, same = transform(results_of(7)), transform(results_of(7))
    np.testing.assert_array_equal(first['img'], same['img'])
    others = [transform(results_of(seed))['img'] for seed in range(4)]
    assert any((other != first['img']).any() for other in others)
    unseeded = results_of()
    unseeded.pop('sample_seed')
    np.random.seed(3)
    drawn = transform(dict(unseeded))
    np.random.seed(3)
    np.testing.assert_array_equal(drawn['img'], transform(dict(unseeded))['img'])


def test_labels_are_asked_for(library):
    with pytest.raises(ValueError, match='LoadDefectAnnotations'):
        PasteDefects(library, dict(places=dict(even=1)))(dict(img=np.zeros((8, 8, 3), np.uint8)))
    with pytest.raises(ValueError, match='dataset'):
        PasteDefects(dict(rule=dict(margin=4)))


@pytest.mark.parametrize('shows', [True, False])
def test_probability_by_kind_of_image(library, shows):
    step = SynthesizeDefects(
        [dict(type='CutPaste', ranges=dict(area_fraction_range=(0.01, 0.03)))],
        probability=dict(clean=0.25, defective=0.75),
    )
    changed = sum('instances' in step(results_of(seed, shows_defect=shows)) for seed in range(200))
    assert changed / 200 == pytest.approx(0.75 if shows else 0.25, abs=0.1)


def test_synthesis_fades_with_the_number_of_the_draw():
    step = SynthesizeDefects([dict(type='CutPaste', ranges=dict(area_fraction_range=(0.01, 0.03)))], fade=(100, 200))
    shares = {
        draws: sum(step.choose(results_of(seed, shows_defect=False, draws=draws)) is not None for seed in range(300))
        / 300
        for draws in (0, 100, 150, 175, 200, 10**6)
    }
    assert shares[0] == shares[100] == 1 and shares[200] == shares[10**6] == 0
    assert shares[150] == pytest.approx(0.5, abs=0.1) and shares[175] == pytest.approx(0.25, abs=0.1)
    with pytest.raises(ValueError, match='numbered samples'):
        step.choose(results_of(0, shows_defect=False))
    with pytest.raises(ValueError, match='fade'):
        SynthesizeDefects([dict(type='CutPaste')], fade=(2, 1))


def test_draws_are_counted_by_rank(dataset):
    dataset.set_sample_seed(0, ranks=2)
    numbers = [dataset[position * len(dataset)]['data_samples'].metainfo['draws'] for position in (0, 1, 6, 7)]
    dataset.set_sample_seed(0)
    assert numbers == [0, 0, 3, 3]


def test_a_found_object_ends_before_its_mixed_pixels_but_not_at_the_frame():
    rows, columns = np.mgrid[:600, :500]
    share = np.clip(140.3 - np.hypot(rows - 300, columns - 20), 0, 1)  # a disc that the frame cuts off
    image = np.repeat(np.rint(255 - 190 * share)[..., None], 3, 2).astype(np.uint8)
    codes = LoadLocationMap().transform(dict(img=image, img_path='x/a.png', seg_fields=[]))['gt_location_map']
    inside = codes >= FIRST_CODE
    assert (image[inside] == 65).all()
    assert inside[300, 0] and inside[300, 155] and inside.sum() > 0.95 * (share == 1).sum()


def test_location_map_of_every_kind(tmp_path):
    image = draw_part(np.random.default_rng(0))
    truth = np.zeros(FRAME_HW, np.uint8)
    truth[OBJECT] = 1
    save(tmp_path / 'masks' / 'a_mask.png', truth * 255)
    save(tmp_path / 'template.png', image)
    save(tmp_path / 'density.png', truth[::2, ::2] * 200)

    def load(**settings):
        results = dict(img=image, img_path='x/a.png', gt_seg_map=truth * 0, seg_fields=[])
        return LoadLocationMap(**settings).transform(results)

    for settings in (
        dict(margin=0),
        dict(object='masks', masks=str(tmp_path / 'masks')),
        dict(object='template', template=str(tmp_path / 'template.png'), margin=0),
    ):
        results = load(**settings)
        np.testing.assert_array_equal(results['gt_location_map'] >= FIRST_CODE, truth > 0)
        assert results['seg_fields'] == ['gt_location_map'] and results['shows_defect'] is False
    assert (load(object='frame')['gt_location_map'] >= FIRST_CODE).all()
    density = load(density=str(tmp_path / 'density.png'))['location_density']
    assert density[0, 0] == 0 and density[16, 16] > 1
    for settings, words in [
        (dict(object='moon'), 'frame'),
        (dict(object='template'), 'template'),
        (dict(margin=-1), 'margin'),
    ]:
        with pytest.raises(ValueError, match=words):
            load(**settings)
    with pytest.raises(ValueError, match='b_mask.png'):
        LoadLocationMap(object='masks', masks=str(tmp_path / 'masks')).transform(
            dict(img=image, img_path='b.png', seg_fields=[])
        )


def test_crops_show_the_defect():
    label = np.zeros((200, 300), np.uint8)
    label[150, 250], label[3:60, 3:60] = 2, 1
    crop = DefectCrop((64, 64), probability=1.0)
    seen = []
    for seed in range(60):
        np.random.seed(seed)
        results = crop(dict(img=np.zeros((200, 300, 3), np.uint8), gt_seg_map=label, seg_fields=['gt_seg_map']))
        assert results['img'].shape == (64, 64, 3) and results['gt_seg_map'].any()
        seen.append(set(np.unique(results['gt_seg_map'])) - {0})
    share = sum(2 in s for s in seen) / 60
    assert 0.3 < share < 0.7  # classes alike, not by their pixels
    clean = crop(dict(img=np.zeros((200, 300, 3), np.uint8), gt_seg_map=label * 0, seg_fields=['gt_seg_map']))
    assert clean['img'].shape == (64, 64, 3)
    small = crop(
        dict(img=np.zeros((30, 40, 3), np.uint8), gt_seg_map=np.ones((30, 40), np.uint8), seg_fields=['gt_seg_map'])
    )
    assert small['gt_seg_map'].shape == (30, 40)


def pipeline_of(data_root):
    from mmdefect.datasets.donors import without_pipeline

    train = dict(type='BladeWTADataset', data_root=str(data_root), split='train')
    paste = dict(
        type='PasteDefects',
        donors=dict(dataset=without_pipeline(train), rule=dict(merge_radius=2)),
        policy=dict(number={2: 1}, places=dict(even=1, source=1)),
    )
    return dict(
        train,
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadDefectAnnotations'),
            dict(type='LoadLocationMap'),
            dict(type='RandomResize', scale=(120, 96), ratio_range=(0.8, 1.5), keep_ratio=True),
            dict(type='RandomCrop', crop_size=(64, 64)),
            dict(type='RandomFlip', prob=0.5),
            dict(type='SynthesizeDefects', transforms=[paste], probability=dict(clean=1.0, defective=0.5)),
            dict(type='PackSynthesisInputs'),
        ],
    )


@pytest.fixture
def dataset(data_root, tmp_path, monkeypatch):
    monkeypatch.setenv('MMDEFECT_CACHE', str(tmp_path / 'cache'))
    return DATASETS.build(pipeline_of(data_root))


def draws(dataset, workers, seed=5, skip=0, context=None, count=12):
    sampler = DefectSampler(dataset, seed=seed)
    sampler.skip(skip)
    loader = DataLoader(
        dataset, 2, sampler=sampler, num_workers=workers, collate_fn=pseudo_collate, multiprocessing_context=context
    )
    found = []
    for batch in loader:
        for image, sample in zip(batch['inputs'], batch['data_samples'], strict=True):
            found.append(
                (image.numpy().copy(), sample.gt_sem_seg.data.numpy().copy(), sample.metainfo.get('instances', []))
            )
        if len(found) >= count:
            return found[:count]


def equal(one, other):
    return all(
        np.array_equal(a[0], b[0]) and np.array_equal(a[1], b[1]) and a[2] == b[2]
        for a, b in zip(one, other, strict=True)
    )


def test_same_samples_for_any_number_of_workers_and_after_resuming(dataset):
    alone = draws(dataset, 0)
    assert sum(len(d[2]) for d in alone) >= 8
    assert equal(alone, draws(dataset, 1)) and equal(alone, draws(dataset, 2))
    assert equal(alone[4:], draws(dataset, 2, skip=4, count=8))
    assert not equal(alone, draws(dataset, 0, seed=6))
    again = {}  # passes and positions differ: no two draws of one image are alike
    for image, label, _ in draws(dataset, 0, count=18):
        key = image.tobytes() + label.tobytes()
        assert key not in again
        again[key] = True


@pytest.mark.slow
def test_same_samples_in_spawned_workers(dataset):
    assert equal(draws(dataset, 0, count=4), draws(dataset, 1, context='spawn', count=4))


def test_no_donor_comes_from_a_held_out_image(data_root, tmp_path, monkeypatch):
    from mmdefect.datasets.donors import library_of

    monkeypatch.setenv('MMDEFECT_CACHE', str(tmp_path / 'cache'))
    train, val = (
        dict(type='BladeWTADataset', data_root=str(data_root), split=split, pipeline=[]) for split in ('train', 'val')
    )
    library = library_of(train, dict(val=val), dict(merge_radius=2))
    assert len(library) == 6 and str(library.folder).startswith(str(tmp_path / 'cache'))
    with pytest.raises(ValueError, match='(?s)img_dir/train/0.png.*img_dir/train/0.png'):
        library_of(train, dict(val=train))


@pytest.mark.parametrize('share', [0.0, 0.2, 0.9])
def test_the_sampler_keeps_the_share_of_defective_images(data_root, share):
    dataset = DATASETS.build(dict(type='BladeWTADataset', data_root=str(data_root), split='train', pipeline=[]))
    sampler = MixingSampler(dataset, share, seed=1)
    stream = iter(sampler)
    indices = [next(stream) % len(dataset) for _ in range(600)]
    assert np.mean([i % 2 == 0 for i in indices]) == pytest.approx(share, abs=0.06)
    clean = [i for i in indices if i % 2]
    if clean:
        assert max(map(clean.count, (1, 3, 5))) - min(map(clean.count, (1, 3, 5))) <= 1
    resumed = MixingSampler(dataset, share, seed=1)
    resumed.skip(100)
    stream = iter(resumed)
    assert [next(stream) % len(dataset) for _ in range(20)] == indices[100:120]
    with pytest.raises(ValueError, match='defective_share'):
        MixingSampler(dataset, 1.5)


def test_workers_draw_from_torch_free_streams(library):
    """A sample leaves torch's and numpy's global generators as they were."""
    transform = make('PasteDefects', library)
    torch.manual_seed(0)
    np.random.seed(0)
    states = torch.get_rng_state(), np.random.get_state()[1].copy()
    transform(results_of(3))
    assert torch.equal(torch.get_rng_state(), states[0]) and (np.random.get_state()[1] == states[1]).all()
