import multiprocessing
import pickle
from collections import Counter

import numpy as np
import pytest
from scipy import ndimage

from mmdefect.synthesis.library import CuttingRule, DefectLibrary, LabelledImage, cut_defects, library_key, open_library
from mmdefect.synthesis.operations import Operations
from mmdefect.synthesis.render.arrays import warp_donor
from tests.helpers.defects import draw_part, labelled_parts, library_of_parts


def test_every_component_is_cut_with_its_pixels_and_margin():
    (image, label), *_ = labelled_parts()
    cuts = list(cut_defects(image, label, CuttingRule(merge_radius=0, margin=5, min_area=1)))
    assert [c.class_id for c in cuts] == [1, 2]
    for cut in cuts:
        top, left = cut.top_left_rc
        height, width = cut.mask.shape
        window = slice(top, top + height), slice(left, left + width)
        np.testing.assert_array_equal(cut.image, image[window])
        np.testing.assert_array_equal(cut.mask == 1, label[window] == cut.class_id)
        rows, columns = np.nonzero(cut.mask == 1)
        assert (rows.min(), columns.min()) == (5, 5)
        assert (rows.max(), columns.max()) == (height - 6, width - 6)


@pytest.mark.parametrize(('gap', 'radius', 'count'), [(3, 0, 2), (3, 4, 1), (3, 2, 2), (6, 4, 2), (6, 6, 1)])
def test_parts_of_one_class_merge_up_to_the_radius(gap, radius, count):
    label = np.zeros((30, 40), np.uint8)
    label[10:12, 5:9] = label[10:12, 9 + gap : 12 + gap] = 1
    image = np.zeros((30, 40, 3), np.uint8)
    cuts = list(cut_defects(image, label, CuttingRule(merge_radius=radius, min_area=1)))
    assert len(cuts) == count
    assert sum(int((c.mask == 1).sum()) for c in cuts) == int(label.sum())


def test_single_components_agree_with_scipy():
    rng = np.random.default_rng(0)
    label = (rng.random((60, 70)) < 0.05).astype(np.uint8)
    image = rng.integers(0, 256, (60, 70, 3), dtype=np.uint8)
    cuts = list(cut_defects(image, label, CuttingRule(merge_radius=0, margin=2, min_area=1)))
    _, count = ndimage.label(label, np.ones((3, 3)))
    assert len(cuts) == count and sum(int((c.mask == 1).sum()) for c in cuts) == int(label.sum())


def test_a_defect_at_the_corner_of_the_frame_repeats_the_border():
    image = np.arange(5 * 6 * 3, dtype=np.uint8).reshape(5, 6, 3)
    label = np.zeros((5, 6), np.uint8)
    label[0, 0] = 3
    (cut,) = cut_defects(image, label, CuttingRule(merge_radius=0, margin=2, min_area=1))
    assert cut.top_left_rc == (-2, -2) and cut.mask.shape == (5, 5) and cut.mask[2, 2] == 1
    np.testing.assert_array_equal(cut.image[2:, 2:], image[:3, :3])
    assert (cut.image[:2, 2] == image[0, 0]).all()
    assert cut.inside < 0.5  # most of its surroundings lie outside of the frame


def test_what_does_not_fit_the_rule_is_counted():
    label = np.zeros((40, 40), np.uint8)
    label[2, 2] = 1
    label[10, 2:38] = 1
    label[20:26, 10:16] = 2
    label[19, 10:16] = 1  # a rim of class 1 along the defect of class 2
    label[30:, :] = 255
    skipped = Counter()
    cuts = list(cut_defects(np.zeros((40, 40, 3), np.uint8), label, CuttingRule(merge_radius=0), skipped=skipped))
    assert [c.class_id for c in cuts] == [2]
    assert skipped == {'too small | 1': 1, 'too long | 1': 1, 'rim of another class | 1': 1}


def test_whole_mask_is_one_defect():
    label = np.zeros((40, 60), np.uint8)
    label[5:8, 5:8] = label[30:33, 40:50] = 1
    (cut,) = cut_defects(np.zeros((40, 60, 3), np.uint8), label, CuttingRule(whole_mask=True, max_extent_fraction=1))
    assert int((cut.mask == 1).sum()) == int(label.sum())


def test_library_holds_what_was_drawn(tmp_path):
    parts = labelled_parts(6)
    library = library_of_parts(tmp_path, parts)
    assert len(library) == 6 and library.classes == [1, 2]
    assert library.defective == [True, False] * 3 and len(library.sources) == 6
    for donor in (library[i] for i in range(len(library))):
        image, label = parts[int(donor.source[4])]
        (top, left), (height, width) = donor.top_left_rc, donor.mask.shape
        np.testing.assert_array_equal(donor.image, image[top : top + height, left : left + width])
        assert donor.area == (donor.mask == 1).sum() == (label == donor.class_id).sum()
        assert donor.source_hw == label.shape and donor.inside == 1
        assert not donor.image.flags.writeable
    counts = [sum((label == c).sum() for _, label in parts) for c in (1, 2)]
    np.testing.assert_array_equal(library.density[1:].sum((1, 2)), counts)
    assert 'scratch' in library.census({1: 'scratch'}) and '6 defects of 3 images' in library.census()


@pytest.mark.parametrize('number, noted', [(0, False), (2, False), (3, True)])
def test_the_census_names_classes_that_pasted_images_show_less_of(tmp_path, number, noted):
    parts = labelled_parts(6)
    for _, label in parts[:number]:
        label[label > 0] = 0
        label[5, 1:-1] = 1  # as long as the image
        label[30, 20] = 2
    text = library_of_parts(tmp_path, parts).census({1: 'scratch', 2: 'pit'})
    assert (f'left out, too long: scratch {number}\nleft out, too small: pit {number}' in text) == (number > 0)
    assert ('note: most defects of scratch are too long' in text) == noted


def test_library_is_built_once_and_found_again(tmp_path):
    parts = labelled_parts()
    loads = []

    def image(i):
        def load():
            loads.append(i)
            return parts[i]

        return LabelledImage(f'{i}.png', load, f'hash{i}')

    images, rule = [image(i) for i in range(len(parts))], CuttingRule()
    first = open_library(images, rule, tmp_path)
    assert loads == [0, 1, 2, 3]
    again = open_library(images, rule, tmp_path)
    assert loads == [0, 1, 2, 3] and again.folder == first.folder
    keys = {
        library_key(images, rule),
        library_key(images[:3], rule),
        library_key(images, CuttingRule(margin=9)),
        library_key([*images[:3], LabelledImage('3.png', images[3].load, 'changed')], rule),
    }
    assert len(keys) == 4
    assert not list(tmp_path.glob('.*.tmp'))


def _open_slowly(folder, queue):
    library = library_of_parts(folder)
    queue.put((len(library), str(library.folder)))


def test_many_processes_build_one_library(tmp_path):
    context = multiprocessing.get_context('spawn')
    queue = context.Queue()
    processes = [context.Process(target=_open_slowly, args=(tmp_path, queue)) for _ in range(2)]
    for process in processes:
        process.start()
    answers = {queue.get(timeout=120) for _ in processes}
    for process in processes:
        process.join(60)
    assert len(answers) == 1 and [p.exitcode for p in processes] == [0, 0]


def test_library_pickles_as_its_path(tmp_path):
    library = library_of_parts(tmp_path)
    text = pickle.dumps(library)
    assert len(text) < 1000
    np.testing.assert_array_equal(pickle.loads(text)[1].image, library[1].image)


def test_mistakes_are_said(tmp_path):
    clean = [(image, label) for image, label in labelled_parts() if not label.any()]
    with pytest.raises(ValueError, match='at least one defect'):
        library_of_parts(tmp_path, clean)
    assert not list(tmp_path.glob('.*.tmp'))
    with pytest.raises(ValueError, match='no library.json'):
        DefectLibrary(tmp_path / 'nowhere')
    with pytest.raises(ValueError, match='margin'):
        CuttingRule(margin=0)
    with pytest.raises(ValueError, match='size of `image`'):
        list(cut_defects(np.zeros((4, 5, 3), np.uint8), np.ones((5, 4), np.uint8), CuttingRule()))


def test_the_surroundings_of_a_donor_hold_no_other_defect(tmp_path):
    """A defect beside another one is pasted without a piece of it; the ring around it counts as object all the same."""
    image = draw_part(np.random.default_rng(0))
    label = np.zeros(image.shape[:2], np.uint8)
    label[30:40, 40:50], label[30:40, 51:60] = 1, 2
    image[label == 1], image[label == 2] = 150, 220
    library = library_of_parts(tmp_path, [(image, label)])
    donor = library[0]
    assert donor.class_id == 1 and donor.inside == 1
    top, left = donor.top_left_rc
    own = label[top : top + donor.mask.shape[0], left : left + donor.mask.shape[1]]
    np.testing.assert_array_equal(donor.mask == 3, own == 2)
    keep = Operations((0, 0, 0, 1, 1, 1, 1, 1, 0), (1, 1), 0.0, None)
    fitted = warp_donor(donor, (1, 1), keep, 3).coloured(keep)
    assert fitted.patch[fitted.region].max() < 200 / 255
    assert fitted.region.sum() > fitted.core.sum() == 100
