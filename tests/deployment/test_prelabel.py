"""Annotations of predictions, read again: by our reader of COCO, and by the formats' own rules written out."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from mmdefect.datasets.coco import rasterize_polygons, read_coco
from mmdefect.deployment import load_predictor
from mmdefect.deployment.decoding import read_image
from mmdefect.deployment.prelabel import Shape, prelabel, shapes_of, trace
from mmdefect.deployment.types import Prediction
from tests.helpers.deployment import CLASSES, make_images, write_exported

REPO = Path(__file__).resolve().parents[2]
IDS = {name: k for k, name in enumerate(CLASSES)}


def drawn(shapes: list[Shape], size_hw) -> np.ndarray:
    """Fill shapes, large ones first: a region in the hole of another one is the smaller of the two."""
    label = np.zeros(size_hw, np.uint8)
    for shape in sorted(shapes, key=lambda s: -s.area_px):
        polygon = [v for point in shape.ring for v in point]
        label[rasterize_polygons([polygon], size_hw)] = IDS[shape.class_name]
    return label


def predicted(label: np.ndarray) -> Prediction:
    return Prediction(label, None, [], bool(label.any()), 1.0)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.floats(0.2, 0.8), st.integers(1, 4))
def test_polygons_hold_exactly_the_pixels_also_with_holes_and_corners_that_touch(seed, share, block):
    rng = np.random.default_rng(seed)
    label = np.kron((rng.random((7, 9)) < share) * rng.integers(1, 3, (7, 9)), np.ones((block, block))).astype(np.uint8)
    shapes = list(shapes_of(predicted(label), CLASSES, 0))
    assert np.array_equal(drawn(shapes, label.shape), label)
    regions = [ndimage.label(label == k, np.ones((3, 3)))[1] for k in (1, 2)]
    assert len(shapes) == sum(regions) and sum(s.area_px for s in shapes) == (label > 0).sum()


def test_rings_of_a_frame_by_hand():
    frame = np.ones((4, 5), bool)
    frame[1:3, 2] = False
    outer, hole = trace(frame)
    assert set(outer) == {(0, 0), (5, 0), (5, 4), (0, 4)} and set(hole) == {(2, 1), (3, 1), (3, 3), (2, 3)}
    diagonal = np.eye(3, dtype=bool)
    assert len(trace(diagonal)) == 1  # one region, and the label map has no other


def test_simplified_outlines_are_short_and_stay_within_a_pixel():
    label = np.zeros((200, 200), np.uint8)
    cv2.circle(label, (90, 100), 70, 1, -1)
    cv2.circle(label, (100, 110), 20, 0, -1)
    label[180:183, 180:183] = 2
    exact, short = (list(shapes_of(predicted(label), CLASSES, px)) for px in (0, 0.8))
    assert len(short[0].ring) < len(exact[0].ring) / 3
    assert short[1] == exact[1]  # small: as it is
    again = drawn(short, label.shape)
    inside, outside = ndimage.distance_transform_edt(label == 1), ndimage.distance_transform_edt(label != 1)
    wrong = again != label
    assert wrong[label == 1].mean() < 0.02 and max(inside[wrong].max(), outside[wrong].max()) <= 1.5


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    """Predictions of images in two folders, with equal names, in all formats, exactly."""
    root = tmp_path_factory.mktemp('prelabel')
    model = write_exported(root)
    for index, image in enumerate(make_images(4, 70, 90)):
        path = root / 'images' / f'shift{index % 2}' / f'part_{index // 2}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), image[..., ::-1])
    files = sorted((root / 'images').rglob('*.png'))
    expected = {}
    with load_predictor(model) as predictor:
        for path in files:
            (prediction,) = predictor.predict_batch([read_image(path).pixels])
            expected[path.relative_to(root / 'images').as_posix()] = prediction.label_map
    assert all(set(np.unique(label)) == {0, 1, 2} for label in expected.values())
    for form in ('labelme', 'cvat', 'coco', 'labelstudio'):
        images, failed = prelabel(model, [str(root / 'images')], root / form, form, simplify_px=0)
        assert len(images) == 4 and not failed
    return root, model, expected


def test_coco_is_read_by_our_reader(written):
    root, _, expected = written
    source = read_coco(root / 'coco' / 'annotations.json', root / 'images')
    assert source.classes == CLASSES and len(source.images) == len(expected)
    for image in source.images:
        key = Path(image.path).relative_to(root / 'images').as_posix()
        assert np.array_equal(image.read_label(Counter()), expected[key])
    body = json.loads((root / 'coco' / 'annotations.json').read_text())
    for annotation in body['annotations']:
        polygon = np.array(annotation['segmentation'][0]).reshape(-1, 2)
        left, top, width, height = annotation['bbox']
        assert polygon.min(0).tolist() == [left, top] and polygon.max(0).tolist() == [left + width, top + height]
        assert 0 < annotation['score'] <= 1 and annotation['area'] > 0


def rebuilt(polygons, size_hw):
    """Fill ``(class, points)`` of a file, large ones first."""
    masks = [(IDS[name], rasterize_polygons([[v for p in points for v in p]], size_hw)) for name, points in polygons]
    label = np.zeros(size_hw, np.uint8)
    for value, mask in sorted(masks, key=lambda pair: -pair[1].sum()):
        label[mask] = value
    return label


def test_labelme_cvat_and_label_studio_hold_the_same_regions(written):
    root, _, expected = written
    labelme, cvat, studio = {}, {}, {}
    for path in (root / 'labelme').rglob('*.json'):
        body = json.loads(path.read_text())
        image = (path.parent / body['imagePath']).resolve()
        with Image.open(image) as opened:
            assert opened.size == (body['imageWidth'], body['imageHeight'])
        shapes = [(s['label'], s['points']) for s in body['shapes']]
        assert all(s['shape_type'] == 'polygon' and s['description'].startswith('score 0.') for s in body['shapes'])
        labelme[image.relative_to(root / 'images').as_posix()] = shapes
    tree = ElementTree.parse(root / 'cvat' / 'annotations.xml').getroot()
    assert [node.text for node in tree.iter('name')] == list(CLASSES[1:])
    for image in tree.iter('image'):
        points = [
            (p.get('label'), [tuple(map(float, c.split(','))) for c in p.get('points').split(';')])
            for p in image.iter('polygon')
        ]
        cvat[image.get('name')] = points
    for task in json.loads((root / 'labelstudio' / 'tasks.json').read_text()):
        name = task['data']['image'].removeprefix('/data/local-files/?d=')
        studio[name] = []
        for region in task['predictions'][0]['result']:
            scale = np.array([region['original_width'], region['original_height']]) / 100
            points = np.round(np.array(region['value']['points']) * scale, 6).tolist()
            studio[name].append((region['value']['polygonlabels'][0], points))
    for name, label in expected.items():
        for form in (labelme, cvat, studio):
            assert np.array_equal(rebuilt(form[name], label.shape), label)


def test_corrections_are_not_overwritten_and_mistakes_are_one_line(written, tmp_path):
    root, model, _ = written
    command = [sys.executable, 'tools/prelabel.py', str(model), str(root / 'images'), '--format', 'labelme', '--out']
    done = subprocess.run([*command, str(root / 'labelme')], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 2 and 'may hold what a person has corrected' in done.stderr
    done = subprocess.run([*command, str(tmp_path / 'new')], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0 and 'regions in 4 images, 0 unreadable' in done.stdout
    assert sorted(p.relative_to(tmp_path / 'new').as_posix() for p in (tmp_path / 'new').rglob('*.json')) == [
        f'shift{k}/part_{n}.json' for k in (0, 1) for n in (0, 1)
    ]
