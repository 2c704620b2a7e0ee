import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope

from mmdefect.datasets.transforms import LoadLocationMap, PackSynthesisInputs, SynthesizeDefects
from mmdefect.models.data_preprocessors import SynthesisDataPreProcessor
from mmdefect.synthesis.records import Synthesis
from tests.helpers.defects import FRAME_HW, draw_part, labelled_parts, library_of_parts

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@pytest.fixture(scope='module', autouse=True)
def scope():
    init_default_scope('mmseg')


@pytest.fixture(scope='module')
def step(tmp_path_factory):
    library = library_of_parts(tmp_path_factory.mktemp('library'), labelled_parts(6, outline=True))
    paste = dict(
        type='PasteDefects', donors=str(library.folder), policy=dict(number={2: 1}, places=dict(even=1, source=1))
    )
    return dict(transforms=[paste], probability=dict(clean=1.0, defective=0.0))


def results_of(seed):
    results = dict(
        img=draw_part(np.random.default_rng(seed)),
        img_path='a.png',
        seg_fields=[],
        ori_shape=FRAME_HW,
        gt_seg_map=np.zeros(FRAME_HW, np.uint8),
        sample_seed=seed,
    )
    results['gt_seg_map'][30:33, 30:33] = seed % 2  # every second image shows a defect
    return LoadLocationMap(cache_size=1).transform(results)


def batch(seeds, transform=lambda r: r):
    packed = [PackSynthesisInputs().transform(transform(results_of(seed))) for seed in seeds]
    return dict(inputs=[p['inputs'] for p in packed], data_samples=[p['data_samples'] for p in packed])


def preprocessor(step=None, **kwargs):
    settings = dict(size=FRAME_HW) | kwargs
    return SynthesisDataPreProcessor(synthesis=step, mean=MEAN, std=STD, bgr_to_rgb=True, **settings)


def test_without_synthesis_it_is_the_stock_one():
    made = preprocessor()(batch([0, 1]), training=True)
    from mmseg.models.data_preprocessor import SegDataPreProcessor

    stock = SegDataPreProcessor(mean=MEAN, std=STD, bgr_to_rgb=True, size=FRAME_HW)(batch([0, 1]), training=True)
    assert torch.equal(made['inputs'], stock['inputs'])


def test_the_batch_gets_what_a_worker_would_have_made(step):
    seeds = [0, 1, 2, 4]
    on_device = preprocessor(step)(batch(seeds), training=True)
    in_worker = preprocessor()(batch(seeds, SynthesizeDefects(**step)), training=True)
    for i, seed in enumerate(seeds):
        one, other = on_device['data_samples'][i], in_worker['data_samples'][i]
        # A worker rounds to 8 bits after each defect: half a grey level, 1/57 of which is left after normalising.
        assert (on_device['inputs'][i] - in_worker['inputs'][i]).abs().max() < 1.1 / 57
        differing = (one.gt_sem_seg.data != other.gt_sem_seg.data).sum()
        assert differing <= 0.02 * (one.gt_sem_seg.data > 0).sum() + 2  # changes just as large as the tolerance
        made = one.metainfo['instances']
        assert len(made) == len(other.metainfo.get('instances', []))
        assert bool(made) == (seed % 2 == 0)
        assert 'location_map' not in one


def test_batch_mates_do_not_matter_and_the_test_phase_is_untouched(step):
    model = preprocessor(step)
    both, alone = model(batch([2, 4]), training=True), model(batch([4]), training=True)
    assert torch.equal(both['inputs'][1], alone['inputs'][0])
    testing = model(batch([2]), training=False)
    assert torch.equal(testing['inputs'], preprocessor()(batch([2]), training=False)['inputs'])


def test_padding_gets_no_defect(step):
    size = (FRAME_HW[0] + 32, FRAME_HW[1] + 8)
    made = preprocessor(step, size=size)(batch([2, 4]), training=True)
    assert made['inputs'].shape[2:] == size
    for sample in made['data_samples']:
        assert (sample.gt_sem_seg.data[0, FRAME_HW[0] :] == 255).all()


def test_it_holds_no_parameters_and_takes_a_callable(step):
    model = preprocessor(step)
    assert not list(model.parameters()) and set(model.state_dict()) == set(preprocessor().state_dict())
    seen = {}

    def paint(images, labels, metas, backgrounds):
        seen.update(
            range=(float(images.min()), float(images.max())),
            seeds=[m['sample_seed'] for m in metas],
            codes=backgrounds[0].codes.shape,
        )
        return Synthesis(torch.zeros_like(images), labels + 1, [[], []])

    model.set_synthesis(paint)
    made = model(batch([2, 4]), training=True)
    assert 0 <= seen['range'][0] and 0.5 < seen['range'][1] <= 1
    assert seen['seeds'] == [2, 4] and seen['codes'] == FRAME_HW
    np.testing.assert_allclose(made['inputs'][0, :, 0, 0], [-m / s for m, s in zip(MEAN, STD, strict=True)], rtol=1e-5)
    assert (made['data_samples'][0].gt_sem_seg.data == 1).all()


def test_mistakes_are_said(step):
    with pytest.raises(ValueError, match='PasteDefects'):
        preprocessor(dict(transforms=[dict(type='CutPaste')]))
    with pytest.raises(ValueError, match='batch_augments'):
        preprocessor(batch_augments=[])
