"""Labels of edits: change, appearance, what becomes of a defect, and the verdict."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from mmdefect.diffusion import relabel_change as change
from mmdefect.diffusion.relabel import (
    GEOMETRY,
    NOTHING_INSIDE,
    OUTSIDE,
    UNCHANGED,
    Component,
    Limits,
    RelabelSettings,
    count_fates,
    judge,
    relabel,
    structure_correlation,
)
from mmdefect.diffusion.relabel_change import (
    component_classes,
    find_surface,
    learn_appearance,
    nearest_class,
    pixel_features,
)

from .relabel_cases import SIZE, draw_surface, labelled_sources, put, reconstruct


@pytest.fixture(scope='module')
def appearance():
    return learn_appearance(labelled_sources(), 3)


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def iou(a, b):
    return (a & b).sum() / max((a | b).sum(), 1)


class TestChange:
    def test_tolerant_difference_equals_the_slow_definition(self, rng):
        source, edit = rng.normal(0, 5, (2, 9, 11, 3)).astype(np.float32)
        found = change.tolerant_difference(source, edit, reach=1, drift_sigma=0)
        for row in range(9):
            for column in range(11):
                near = source[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2].reshape(-1, 3)
                value = edit[row, column]
                expected = np.where(value > near.max(0), value - near.max(0), np.minimum(value - near.min(0), 0))
                np.testing.assert_allclose(found[row, column], expected, rtol=1e-5, atol=1e-5)

    def test_a_shift_of_one_pixel_is_no_change(self, rng):
        source = change.to_lab(draw_surface(rng))
        moved = np.roll(source, 1, axis=1)
        inner = change.tolerant_difference(source, moved, 1, 0)[4:-4, 4:-4]
        assert not inner.any()
        assert change.tolerant_difference(source, np.roll(source, 3, axis=1), 1, 0)[4:-4, 4:-4].any()

    def test_tone_is_matched_despite_a_defect(self, rng):
        source = change.to_lab(draw_surface(rng))
        edit = source.copy()
        edit[..., 0] = edit[..., 0] * 0.8 + 9
        edit[..., 2] -= 3
        edit[40:80, 40:80] += 30
        matched, tone = change.match_tone(source, edit)
        assert tone.gain == pytest.approx(1 / 0.8, rel=0.03)
        assert tone.offset[2] == pytest.approx(3, abs=0.1)
        assert np.abs((matched - source)[100:]).max() < 0.5

    @pytest.mark.parametrize('shift_rc', [(0, 0), (4, 0), (-2, 5)])
    def test_a_displaced_image_is_measured(self, rng, shift_rc):
        source = change.to_lab(draw_surface(rng))
        _, tone = change.match_tone(source, np.roll(source, shift_rc, axis=(0, 1)))
        assert tone.shift_rc == pytest.approx(shift_rc, abs=0.5)

    def test_noise_of_a_set_ignores_what_a_few_pairs_change(self, rng):
        stack = rng.normal(0, 2, (40, 24, 24, 3)).astype(np.float32)
        stack[:6, 10:14, 10:14] = 50
        noise = change.set_noise(stack)
        assert np.median(noise) == pytest.approx(2.4, abs=0.5)  # widened by a pixel, so above the true 2
        assert noise[10:14, 10:14].max() < 5
        with pytest.raises(ValueError, match='quantile'):
            change.set_noise(stack, 0.6)

    def test_noise_of_a_pair_follows_the_place_and_not_the_defect(self, rng):
        difference = rng.normal(0, 1, (120, 120, 3)).astype(np.float32)
        difference[:, 60:] *= 3
        difference[20:24, 20:24] = 60
        noise = change.pair_noise(difference)
        assert noise[60, 100, 0] > 2 * noise[60, 10, 0]
        assert noise[22, 22, 0] < 2 * noise[90, 22, 0]


class TestAppearance:
    def test_classes_are_told_apart(self, appearance, rng):
        image, label = labelled_sources(1, seed=99)[0]
        lab = change.to_lab(image)
        features = pixel_features(lab, lab - find_surface(lab, label))
        for class_id in (1, 2):
            assert nearest_class(features[label == class_id].mean(0), appearance)[0] == class_id

    def test_a_rim_of_interpolated_ids_belongs_to_its_core(self):
        label = np.zeros((30, 30), np.uint8)
        label[5:14, 5:14] = 1  # the rim
        label[6:13, 6:13] = 2
        label[20:23, 20:26] = 1
        numbers, classes = component_classes(label)
        assert sorted(classes.values()) == [1, 2]
        assert classes[numbers[9, 9]] == 2 and classes[numbers[21, 22]] == 1

    def test_surface_below_a_large_defect_is_that_around_it(self, rng):
        image = draw_surface(rng)
        lab, label = change.to_lab(image), np.zeros((SIZE, SIZE), np.uint8)
        with_defect = lab.copy()
        with_defect[40:110, 40:110, 0] = 90
        label[40:110, 40:110] = 1
        surface = find_surface(with_defect, label)
        assert np.abs(surface[..., 0] - lab[..., 0])[60:90, 60:90].mean() < 8

    def test_labels_without_a_visible_defect_are_refused(self):
        blank = np.full((SIZE, SIZE, 3), 80, np.uint8)
        label = np.zeros((SIZE, SIZE), np.uint8)
        label[3:6, 3:6] = 1
        with pytest.raises(ValueError, match='stands out'):
            learn_appearance([(blank, label)], 2)


class TestRelabel:
    def edit(self, rng, appearance, before, after, **kwargs):
        """Relabel an edit that shows ``after`` where the source shows ``before``: lists of (box, class)."""
        surface = draw_surface(rng)
        source, label = surface.copy(), np.zeros((SIZE, SIZE), np.uint8)
        target, truth = surface.copy(), np.zeros((SIZE, SIZE), np.uint8)
        state = rng.bit_generator.state
        for boxes, image, mask in ((before, source, label), (after, target, truth)):
            rng.bit_generator.state = state  # the same defect has the same pixels in both
            for box, class_id in boxes:
                put(image, mask, box, class_id, rng)
        made = reconstruct(target, rng)
        return source, made, label, truth, relabel(source, made, label, appearance, **kwargs)

    def test_an_untouched_defect_keeps_its_mask(self, rng, appearance):
        *_, label, _, found = self.edit(rng, appearance, [((30, 30, 6, 8), 1)], [((30, 30, 6, 8), 1)])
        assert np.array_equal(found.label, label)
        assert count_fates(found.components) == dict(kept=1, changed=0, vanished=0, new=0)

    def test_a_vanished_defect_has_no_label(self, rng, appearance):
        *_, found = self.edit(rng, appearance, [((30, 30, 6, 8), 1), ((90, 90, 5, 5), 2)], [((30, 30, 6, 8), 1)])
        assert count_fates(found.components) == dict(kept=1, changed=0, vanished=1, new=0)
        assert not (found.label == 2).any()

    @pytest.mark.parametrize('class_id', [1, 2])
    def test_a_new_defect_is_found_tightly_with_its_class(self, rng, appearance, class_id):
        *_, truth, found = self.edit(rng, appearance, [], [((70, 50, 6, 9), class_id)])
        assert count_fates(found.components)['new'] == 1
        assert iou(found.label == class_id, truth == class_id) > 0.7
        assert ((found.label > 0) & (truth == 0)).sum() <= 34  # at most the ring that the blur adds

    def test_a_moved_defect_is_not_where_it_was(self, rng, appearance):
        *_, truth, found = self.edit(rng, appearance, [((30, 30, 6, 8), 1)], [((30, 60, 6, 8), 1)])
        assert count_fates(found.components) == dict(kept=0, changed=0, vanished=1, new=1)
        assert iou(found.label == 1, truth == 1) > 0.7

    def test_half_a_defect_is_redrawn(self, rng, appearance):
        *_, truth, found = self.edit(rng, appearance, [((30, 30, 10, 24), 2)], [((30, 30, 10, 12), 2)])
        assert count_fates(found.components)['changed'] == 1
        assert iou(found.label == 2, truth == 2) > 0.7

    def test_reconstruction_alone_makes_no_defect(self, appearance):
        for seed in range(4):
            rng = np.random.default_rng(seed)
            *_, found = self.edit(rng, appearance, [], [])
            assert not found.label.any()

    def test_a_dark_mark_is_no_bright_defect(self, rng, appearance):
        source = draw_surface(rng)
        made = source.copy()
        made[60:66, 60:70] = 20
        found = relabel(source, reconstruct(made, rng), np.zeros((SIZE, SIZE), np.uint8), appearance)
        assert not (found.label == 2).any()

    def test_off_the_surface_there_is_no_defect(self, rng, appearance):
        source = draw_surface(rng)
        source[:, 100:] = 215  # a bright background, which no source defect lies on
        made = source.copy()
        put(made, None, (50, 130, 6, 6), 1, rng)
        found = relabel(source, made, np.zeros((SIZE, SIZE), np.uint8), appearance)
        assert not found.label[40:70, 115:].any()

    def test_ignored_pixels_stay_ignored(self, rng, appearance):
        source = draw_surface(rng)
        label = np.zeros((SIZE, SIZE), np.uint8)
        label[10:20, 10:20] = 255
        assert (relabel(source, reconstruct(source, rng), label, appearance).label == label).all()

    def test_a_segmenter_votes_on_the_class(self, rng, appearance):
        votes = np.zeros((3, SIZE, SIZE), np.float32)
        votes[1] = 0.9  # for gold, although the new defect is white
        *_, found = self.edit(rng, appearance, [], [((70, 50, 6, 9), 2)], probabilities=votes)
        assert [c.class_id for c in found.components] == [1]

    def test_noise_of_the_set_mutes_a_place(self, rng, appearance):
        noise = np.full((SIZE, SIZE, 3), 0.8, np.float32)
        noise[60:90, 40:70] = 200
        *_, found = self.edit(rng, appearance, [], [((70, 50, 6, 9), 2)], noise=noise)
        assert not found.label.any()

    def test_the_same_input_gives_the_same_label(self, appearance):
        first, second = (
            self.edit(np.random.default_rng(3), appearance, [], [((70, 50, 6, 9), 2)])[-1] for _ in range(2)
        )
        assert np.array_equal(first.label, second.label) and first.components == second.components

    @pytest.mark.parametrize('name', ['edit', 'label', 'noise', 'probabilities'])
    def test_another_size_is_refused(self, rng, appearance, name):
        source = draw_surface(rng)
        given = dict(edit=source, label=np.zeros((SIZE, SIZE), np.uint8), noise=None, probabilities=None)
        given[name] = dict(
            edit=source[:-1],
            label=given['label'][:-1],
            noise=np.ones((SIZE - 1, SIZE, 3), np.float32),
            probabilities=np.ones((3, SIZE - 1, SIZE), np.float32),
        )[name]
        with pytest.raises(ValueError, match=f'`{name}` must have the size'):
            relabel(source, appearance=appearance, **given)

    @pytest.mark.parametrize(
        'wrong', [dict(kept_share=1.5), dict(kept_share=0.1, vanished_share=0.4), dict(min_area=0)]
    )
    def test_settings_are_checked(self, wrong):
        with pytest.raises(ValueError):
            RelabelSettings(**wrong)

    def test_components_say_where_they_are(self, rng, appearance):
        *_, found = self.edit(rng, appearance, [], [((70, 50, 6, 9), 2)])
        (component,) = found.components
        assert isinstance(component, Component)
        left, top, width, height = component.box
        assert abs(left - 50) <= 2 and abs(top - 70) <= 2 and abs(width - 9) <= 3 and abs(height - 6) <= 3


class TestVerdict:
    def verdict(self, source, made, appearance, label=None, mask=None, **limits):
        label = np.zeros((SIZE, SIZE), np.uint8) if label is None else label
        found = relabel(source, made, label, appearance)
        return judge(source, made, label, found, mask, Limits(**limits))

    def test_a_faithful_edit_is_accepted(self, rng, appearance):
        source = draw_surface(rng)
        verdict = self.verdict(source, reconstruct(source, rng), appearance)
        assert verdict.accepted and verdict.scores['structure'] > 0.9

    def test_a_redrawn_relief_is_rejected(self, rng, appearance):
        source = draw_surface(rng)
        rows, columns = np.mgrid[:SIZE, :SIZE]
        other = np.clip(80 + 12 * np.sin(rows / 5.0 + columns / 7.0)[..., None] + np.zeros(3), 0, 255).astype(np.uint8)
        assert GEOMETRY in self.verdict(source, other, appearance).reasons

    def test_a_moved_object_is_rejected(self, rng, appearance):
        source = draw_surface(rng)
        assert GEOMETRY in self.verdict(source, np.roll(source, 5, axis=0), appearance).reasons

    def test_a_mask_says_where_to_look(self, rng, appearance):
        source = draw_surface(rng)
        made = source.copy()
        put(made, None, (70, 50, 8, 9), 2, rng)
        made = reconstruct(made, rng)
        here, there = np.zeros((2, SIZE, SIZE), bool)
        here[68:80, 48:61] = True
        there[20:40, 110:130] = True
        assert self.verdict(source, made, appearance, mask=here).accepted
        assert set(self.verdict(source, made, appearance, mask=there, outside=0.001).reasons) == {
            NOTHING_INSIDE,
            OUTSIDE,
        }
        with pytest.raises(ValueError, match='mask'):
            self.verdict(source, made, appearance, mask=np.zeros((SIZE, SIZE), bool))

    def test_unchanged_is_rejected_on_request(self, rng, appearance):
        source = draw_surface(rng)
        made = reconstruct(source, rng)
        assert self.verdict(source, made, appearance).accepted
        assert self.verdict(source, made, appearance, reject_unchanged=True).reasons == (UNCHANGED,)

    def test_structure_has_its_limits(self, rng):
        lightness = change.to_lab(draw_surface(rng))[..., 0]
        assert structure_correlation(lightness, lightness) == pytest.approx(1)
        assert structure_correlation(lightness, 100 - lightness) == pytest.approx(-1, abs=1e-3)
        assert structure_correlation(np.zeros((20, 20), np.float32), np.zeros((20, 20), np.float32)) == 1
        assert structure_correlation(lightness, np.full_like(lightness, 30)) == 0
        blurred = cv2.GaussianBlur(lightness, (0, 0), 1.0)
        assert structure_correlation(lightness, blurred) > 0.9
