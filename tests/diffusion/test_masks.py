"""Masks: sizes, boxes on their region, shapes, sets on disk."""

from __future__ import annotations

import math
import runpy
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from mmdefect.diffusion.images import list_good, read_mask, write_image
from mmdefect.diffusion.masks import (
    Box,
    BoxRange,
    MaskRule,
    draw_box,
    find_range,
    fit_box,
    overlap_fraction,
    place_shape,
    read_list,
    read_ranges,
    sample_blob,
    sample_box,
    sample_mask,
    sample_scratch,
)
from mmdefect.diffusion.support import Candidate, write_support
from mmdefect.synthesis.library import CuttingRule, DefectLibrary, LabelledImage, build_library

ROOT = Path(__file__).resolve().parents[2]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def run(*arguments):
    """Run ``tools/generate.py``; a text of several words is split as a shell does."""
    words = [word for a in arguments for word in ((shlex.split(a) or [a]) if isinstance(a, str) else [str(a)])]
    return runpy.run_path(str(ROOT / 'tools' / 'generate.py'))['main'](words)


#: Rows of the published table, read off by hand.
PUBLISHED = {
    ('bottle', 'broken_large'): ((0.2, 0.25), (0.25, 0.8), True),
    ('bottle', 'broken_small'): ((0.15, 0.25), (0.15, 0.25), False),
    ('cable', 'missing_cable'): ((0.4, 0.4), (0.4, 0.4), False),
    ('capsule', 'squeeze'): ((0.25, 0.4), (0.3, 0.4), True),
    ('grid', 'thread'): ((0.05, 0.1), (0.1, 0.4), True),
    ('metal_nut', 'flip'): ((0.9, 0.9), (0.9, 0.9), False),
    ('pill', 'pill_type'): ((0.8, 0.8), (0.5, 0.5), False),
    ('tile', 'crack'): ((0.05, 0.1), (0.2, 1), True),
    ('transistor', 'cut_lead'): ((0.3, 0.6), (0.15, 0.4), False),
    ('wood', 'scratch'): ((0.1, 0.2), (0.2, 0.5), True),
    ('zipper', 'squeezed_teeth'): ((0.05, 0.15), (0.1, 0.2), False),
}
TYPES = dict(
    bottle=3,
    cable=8,
    capsule=5,
    carpet=5,
    grid=5,
    hazelnut=4,
    leather=5,
    metal_nut=4,
    pill=7,
    tile=5,
    toothbrush=1,
    transistor=4,
    wood=5,
    zipper=7,
)


def test_shipped_ranges_are_the_published_ones():
    ranges = read_ranges()
    assert {category: len(kinds) for category, kinds in ranges.items()} == TYPES and sum(TYPES.values()) == 68
    for (category, kind), (width, height, rotate) in PUBLISHED.items():
        found = find_range(ranges, category, kind)
        assert (found.width_range, found.height_range, found.rotate) == (width, height, rotate)
    assert sum(r.rotate for kinds in ranges.values() for r in kinds.values()) == 34


def test_rotation_is_a_boolean_and_ranges_are_fractions(tmp_path):
    file = tmp_path / 'ranges.yaml'
    file.write_text('tile: {crack: {width: [.1, .2], height: [.1, .2], rotate: "False"}}')
    with pytest.raises(ValueError, match=r'`rotate` of tile/crack must be true or false, got .False.'):
        read_ranges(file)
    with pytest.raises(ValueError, match='fraction of the image'):
        BoxRange((0.1, 20))
    with pytest.raises(ValueError, match="'screw' has none among"):
        find_range(read_ranges(), 'screw', 'scratch')
    with pytest.raises(ValueError, match="'dent' has none among those of tile"):
        find_range(read_ranges(), 'tile', 'dent')


@given(seed=st.integers(0, 2**31), width=st.floats(0.02, 1), height=st.floats(0.02, 1), turned=st.booleans())
def test_boxes_keep_their_range_and_angle(seed, width, height, turned):
    box = sample_box(BoxRange((width / 2, width), (height / 2, height), turned), (64, 96), generator(seed))
    assert max(1, round(64 * height / 2)) <= box.size_hw[0] <= max(1, round(64 * height))
    assert max(1, round(96 * width / 2)) <= box.size_hw[1] <= max(1, round(96 * width))
    assert 0 <= box.degrees < 180 and (turned or box.degrees == 0)
    if not turned:
        mask = draw_box(box, (64, 96))
        assert mask.sum() == box.size_hw[0] * box.size_hw[1], 'an upright box lies wholly in the frame'


def test_turned_box_is_the_polygon_that_pillow_draws():
    box = Box((40.0, 50.0), (20, 44), 30.0)
    angle = math.radians(30)
    corners = [
        (50 + x * math.cos(angle) - y * math.sin(angle), 40 + x * math.sin(angle) + y * math.cos(angle))
        for x, y in [(-22, -10), (22, -10), (22, 10), (-22, 10)]
    ]
    image = Image.new('1', (100, 80))
    ImageDraw.Draw(image).polygon(corners, fill=1)
    mine, theirs = draw_box(box, (80, 100)), np.asarray(image)
    assert (mine & theirs).sum() / (mine | theirs).sum() > 0.93  # pillow also fills the pixels on its outline


def test_overlap_is_the_share_on_the_region_and_the_frame_ends_it():
    allowed = np.zeros((60, 60), bool)
    allowed[:, :30] = True
    assert overlap_fraction(Box((30, 30), (20, 20)), allowed) == 0.5
    assert overlap_fraction(Box((30, 15), (20, 20)), allowed) == 1
    assert overlap_fraction(Box((30, 0), (20, 20)), allowed) == 0.5, 'half of it is beyond the frame'
    assert overlap_fraction(Box((15, 45), (10, 10), 45.0), allowed) == 0


def test_accepted_boxes_lie_on_the_template():
    ring = np.hypot(*(np.mgrid[:96, :96] - 47.5))
    ring = (ring < 44) & (ring > 20)
    for seed in range(20):
        box, share = fit_box(BoxRange((0.1, 0.2), (0.1, 0.2), True), ring, generator(seed))
        mask = draw_box(box, ring.shape)
        assert share > 0.75 and (mask & ring).sum() / mask.sum() > 0.75


def test_a_range_that_cannot_fit_is_named_and_the_search_ends():
    allowed = np.zeros((64, 64), bool)
    allowed[:4, :4] = True
    with pytest.raises(ValueError, match=r'range bottle/broken \(width 0.5-0.6, height 0.5-0.6, upright\).*none of 50'):
        fit_box(BoxRange((0.5, 0.6), (0.5, 0.6), name='bottle/broken'), allowed, generator(), attempts=50)


@given(seed=st.integers(0, 2**31), height=st.integers(1, 40), width=st.integers(1, 40))
def test_shapes_fill_their_frame_and_are_never_empty(seed, height, width):
    blob, scratch = sample_blob((height, width), generator(seed)), sample_scratch((height, width), generator(seed))
    assert blob.shape == scratch.shape == (height, width) and blob.any() and scratch.any()
    longer = scratch.any(0) if width >= height else scratch.any(1)
    assert longer.all(), 'a scratch goes from one end of its frame to the other'


def test_place_shape_turns_with_its_box():
    box = Box((30.0, 32.0), (9, 31), 70.0)
    placed, drawn = place_shape(np.ones((9, 31), bool), box, (64, 64)), draw_box(box, (64, 64))
    assert (placed != drawn).mean() < 0.004
    half = np.zeros((9, 31), bool)
    half[:, :10] = True
    part = place_shape(half, box, (64, 64))
    assert part.any() and not (part & ~drawn).any()


@pytest.fixture()
def library(tmp_path):
    """Two defects: a ring and an L."""
    label = np.zeros((80, 80), np.uint8)
    distance = np.hypot(*(np.mgrid[:80, :80] - 20))
    label[(distance < 12) & (distance > 8)] = 1
    label[50:70, 50:54] = 2
    label[66:70, 50:62] = 2
    image = np.full((80, 80, 3), 90, np.uint8)
    image[label > 0] = 200
    build_library([LabelledImage('a.png', lambda: (image, label), 'x')], CuttingRule(), tmp_path / 'library')
    return DefectLibrary(tmp_path / 'library')


def test_donor_shapes_are_those_of_the_library(library):
    rule = MaskRule(BoxRange((0.3, 0.3), (0.3, 0.3)), 'donor', library=library, class_id=1)
    mask, facts = sample_mask(rule, np.ones((100, 100), bool), generator())
    assert facts['donor'] == 'a.png'
    rows, columns = mask.nonzero()
    centre = round(rows.mean()), round(columns.mean())
    assert not mask[centre], 'the ring keeps its hole'
    assert 27 <= np.ptp(rows) + 1 <= 30 and 27 <= np.ptp(columns) + 1 <= 30
    with pytest.raises(ValueError, match=r'must hold a defect of class 7, but it holds \[1, 2\]'):
        sample_mask(MaskRule(BoxRange(), 'donor', library=library, class_id=7), np.ones((50, 50), bool), generator())


def test_shapes_are_cut_at_the_region_and_boxes_are_not():
    allowed = np.zeros((64, 64), bool)
    allowed[:, :30] = True
    size, clipped = BoxRange((0.4, 0.4), (0.4, 0.4)), {None: set(), True: set(), False: set()}
    for clip in clipped:
        for kind in ('box', 'perlin'):
            beyond = [
                (sample_mask(MaskRule(size, kind, clip=clip), allowed, generator(seed))[0] & ~allowed).any()
                for seed in range(30)
            ]
            clipped[clip] |= {kind} if not any(beyond) else set()
    assert clipped == {None: {'perlin'}, True: {'box', 'perlin'}, False: set()}


def test_donors_of_a_support_set(tmp_path, capsys):
    chosen, masks = [], []
    for name, (rows, columns) in dict(bar=(slice(30, 36), slice(10, 50)), block=(slice(20, 40), slice(20, 40))).items():
        mask = np.zeros((64, 64), bool)
        mask[rows, columns] = True
        write_image(tmp_path / f'{name}.png', np.random.default_rng(0).integers(0, 255, (64, 64, 3)).astype(np.uint8))
        chosen.append(Candidate(name, None, str(tmp_path / f'{name}.png'), f'{name}.png', name))
        masks.append(mask)
    write_support(tmp_path / 'support', chosen, masks, 0, {})
    options = ['--category part --width 0.5 0.5 --height 0.5 0.5 --size 64 64 --kind donor --count 2']
    assert (
        run('masks', *options, '--out', tmp_path / 'a', '--types', 'bar', 'block', '--support', tmp_path / 'support')
        == 0
    )
    for entry in read_list(tmp_path / 'a'):
        rows, columns = read_mask(tmp_path / 'a' / entry.file).nonzero()
        sides = sorted((np.ptp(rows) + 1, np.ptp(columns) + 1))
        assert entry.donor == f'{entry.defect_type}.png' and sides[1] == 32
        assert sides[0] == pytest.approx(5 if entry.defect_type == 'bar' else 32, abs=1)
    assert run('masks', *options, '--out', tmp_path / 'b', '--types', 'bar') == 2
    assert 'either --library or --support' in capsys.readouterr().err
    assert run('masks', *options, '--out', tmp_path / 'b', '--types', 'dent', '--support', tmp_path / 'support') == 2
    assert "types of the support set, ['bar', 'block'], got 'dent'" in capsys.readouterr().err


def test_masks_command_writes_the_same_set_for_a_seed(tmp_path):
    template = np.zeros((64, 64), bool)
    template[8:56, 8:56] = True
    write_image(tmp_path / 'template.png', template)
    options = ['--category', 'bottle', '--template', tmp_path / 'template.png', '--count', 4]
    assert run('masks', '--out', tmp_path / 'a', *options) == 0
    assert run('masks', '--out', tmp_path / 'b', *options, '--types', 'broken_small') == 0
    entries = read_list(tmp_path / 'a')
    assert len(entries) == 12 and {e.defect_type for e in entries} == {'broken_large', 'broken_small', 'contamination'}
    for entry in read_list(tmp_path / 'b'):
        mask = read_mask(tmp_path / 'b' / entry.file, (64, 64))
        assert (mask == read_mask(tmp_path / 'a' / entry.file)).all(), 'other types change nothing'
        assert entry.box['degrees'] == 0 and (mask & template).sum() / mask.sum() > 0.75
    turned = [e.box['degrees'] for e in entries if e.defect_type != 'broken_small']
    assert len(set(turned)) == 8


@pytest.mark.parametrize('kind', ['box', 'perlin', 'scratch'])
def test_masks_on_the_foreground_of_images(tmp_path, kind):
    photo = np.full((64, 96, 3), 240, np.uint8)
    photo[10:54, 40:90] = 60
    write_image(tmp_path / 'images' / 'part.png', photo)
    assert (
        run(
            'masks --out',
            tmp_path / 'a',
            '--category part --types dent --width 0.1 0.2 --height 0.1 0.2 --rotate --images',
            tmp_path / 'images',
            '--foreground --kind',
            kind,
            '--count 3',
        )
        == 0
    )
    entries = read_list(tmp_path / 'a')
    assert [Path(e.source).name for e in entries] == ['part.png'] * 3 and len({e.seed for e in entries}) == 3
    for entry in entries:
        mask = read_mask(tmp_path / 'a' / entry.file, (64, 96))
        assert mask.any() and (mask & (photo[..., 0] < 100)).sum() / mask.sum() > (0.7 if kind == 'box' else 0.99)


def test_images_with_a_defect_are_left_out(tmp_path):
    for name, defective in (('a', False), ('b', True), ('c', False)):
        write_image(tmp_path / 'images' / f'{name}.png', np.zeros((8, 8, 3), np.uint8))
        write_image(tmp_path / 'labels' / f'{name}.png', np.full((8, 8), 2 * defective, np.uint8))
    assert [p.stem for p in list_good(tmp_path / 'images', tmp_path / 'labels')] == ['a', 'c']
    assert len(list_good(tmp_path / 'images')) == 3
    (tmp_path / 'labels' / 'c.png').unlink()
    with pytest.raises(ValueError, match='has none for .*c.png'):
        list_good(tmp_path / 'images', tmp_path / 'labels')


def test_wrong_masks_commands_say_so(tmp_path, capsys):
    assert run('masks', '--out', tmp_path / 'a', '--category', 'bottle', '--count', 1) == 2
    assert 'one of --template, --foreground and --size' in capsys.readouterr().err
    assert run('masks', '--out', tmp_path / 'a', '--category', 'bottle', '--size', 8, 8, '--width', 0.1, 0.2) == 2
    assert '`--width` and `--height` must be given together' in capsys.readouterr().err
    assert run('masks', '--out', tmp_path / 'a', '--category', 'screw', '--size', 64, 64) == 2
    assert "'screw' has none among" in capsys.readouterr().err
    assert not (tmp_path / 'a' / 'masks.json').exists()
    assert run('sharpen') == 2 and 'must be one of' in capsys.readouterr().err
    write_image(tmp_path / 'm.png', np.ones((4, 6), bool))
    with pytest.raises(ValueError, match=r'must have the size of its image, 5x4 \(width x height\), but it has 6x4'):
        read_mask(tmp_path / 'm.png', (4, 5))
