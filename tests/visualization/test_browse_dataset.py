"""The sheet of what a pipeline yields: right pixels, right label, instances, repeatable."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mmdefect.demo.write import write_demo_dataset

ROOT = Path(__file__).parents[2]
CONFIG = str(ROOT / 'configs' / 'fast_scnn' / 'fast-scnn_baseline_demo.py')
CLASSES, PALETTE = ['normal', 'attached', 'broken'], [(0, 0, 0), (255, 0, 0), (0, 255, 0)]


@pytest.fixture(scope='module')
def browse():
    spec = importlib.util.spec_from_file_location('browse_dataset', ROOT / 'tools' / 'browse_dataset.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def data_root(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp('demo') / 'set'
    write_demo_dataset(out, ('wta',), 15, (128, 128))
    return out / 'wta'


def packed(image_bgr: np.ndarray, label: np.ndarray | None = None, **meta) -> dict:
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    sample = SegDataSample(metainfo=meta)
    if label is not None:
        sample.gt_sem_seg = PixelData(data=torch.from_numpy(label)[None])
    return {'inputs': torch.from_numpy(np.ascontiguousarray(image_bgr.transpose(2, 0, 1))), 'data_samples': sample}


def run(browse, monkeypatch, options: str) -> int:
    """Run the tool with the demo's config and a text of options."""
    monkeypatch.setattr(sys, 'argv', ['browse_dataset.py', CONFIG, *options.split()])
    return browse.main()


def test_pair_shows_image_in_rgb_and_overlay(browse):
    image = np.zeros((40, 30, 3), np.uint8)
    image[..., 0] = 200  # blue in BGR
    label = np.zeros((40, 30), np.int64)
    label[10:12, 5:7], label[0, 0] = 2, 255
    pair, caption = browse.sample_pair(packed(image, label, img_path='a/b/part.png'), CLASSES, PALETTE)
    assert pair.shape == (40, 62, 3) and caption == 'b/part.png   4 px'
    assert (pair[:, :30] == (0, 0, 200)).all()
    assert pair[10, 32 + 5, 1] > 100 and (pair[30:, 32:] == (0, 0, 200)).all()


def test_labels_at_the_size_of_the_file_enlarge_the_image(browse):
    label = np.zeros((80, 60), np.int64)
    pair, _ = browse.sample_pair(packed(np.full((40, 30, 3), 9, np.uint8), label), CLASSES, PALETTE)
    assert pair.shape == (80, 122, 3)


def test_instances_become_boxes(browse):
    record = {'box_xyxy': (10, 20, 18, 26), 'class_index': 1, 'source': 'x'}
    image, label = np.full((60, 50, 3), 50, np.uint8), np.zeros((60, 50), np.int64)
    plain, _ = browse.sample_pair(packed(image, label), CLASSES, PALETTE)
    boxed, _ = browse.sample_pair(packed(image, label, instances=[record]), CLASSES, PALETTE)
    drawn = (boxed != plain).any(axis=2)
    assert drawn.any() and not drawn[:, :52].any()  # on the overlay only
    assert (boxed[drawn].astype(int)[:, 0] >= boxed[drawn].astype(int)[:, 1]).all()  # in the red of class 1
    with pytest.raises(ValueError, match='`box_xyxy` and `class_index`'):
        browse.sample_pair(packed(image, label, instances=[{'box': 1}]), CLASSES, PALETTE)


def test_pipelines_keep_their_instances(browse, data_root):
    from mmdefect.apis import load_config
    from mmdefect.registry import TRANSFORMS

    @TRANSFORMS.register_module(force=True)
    class NoteInstance:
        def __call__(self, results: dict) -> dict:
            results['instances'] = [{'box_xyxy': (1, 2, 3, 4), 'class_index': 2}]
            return results

    cfg = load_config(CONFIG, {'data_root': str(data_root)})
    cfg.train_dataloader.dataset.pipeline.insert(-1, {'type': 'NoteInstance'})
    sample = next(browse.draw_samples(browse.build_dataset(cfg, 'train'), 1, 0))
    meta = sample['data_samples'].metainfo
    assert meta['instances'][0]['class_index'] == 2 and meta['img_path'].endswith('.png')


def test_what_the_sampler_of_training_prefers_is_on_the_sheet(browse, data_root):
    """One image in fifteen shows a defect, but every sample that training sees: so does the sheet."""
    from mmdefect.apis import load_config

    sampler = {'_delete_': True, 'type': 'MixingSampler', 'defective_share': 1.0, 'shuffle': True}
    cfg = load_config(CONFIG, {'data_root': str(data_root), 'train_dataloader.sampler': sampler})
    dataset = browse.build_dataset(cfg, 'train')
    drawn = list(browse.draw_samples(dataset, 12, 3, cfg.train_dataloader.sampler))
    plain = list(browse.draw_samples(dataset, 12, 3))
    shows = {dataset.get_data_info(i)['img_path'] for i in range(len(dataset)) if has_defect(dataset, i)}
    paths = [[sample['data_samples'].metainfo['img_path'] for sample in samples] for samples in (drawn, plain)]
    assert set(paths[0]) <= shows and not set(paths[1]) <= shows
    again = list(browse.draw_samples(dataset, 12, 3, cfg.train_dataloader.sampler))
    assert all(torch.equal(a['inputs'], b['inputs']) for a, b in zip(drawn, again, strict=True))
    twice = [sample for sample, path in zip(drawn, paths[0], strict=True) if path == paths[0][0]]
    assert len(twice) < 2 or not torch.equal(twice[0]['inputs'], twice[1]['inputs'])  # with an augmentation of its own


def has_defect(dataset, index) -> bool:
    label = cv2.imread(dataset.get_data_info(index)['seg_map_path'], cv2.IMREAD_UNCHANGED)
    return bool(((label > 0) & (label < 255)).any())


def test_normalised_images_are_rejected(browse):
    sample = packed(np.zeros((4, 4, 3), np.float32))
    with pytest.raises(ValueError, match='uint8 images .* got float32'):
        browse.sample_pair(sample, CLASSES, PALETTE)


def test_command_draws_the_pipeline_and_repeats_itself(browse, data_root, tmp_path, monkeypatch, capsys):
    sheets = []
    for name, seed in (('a', '1'), ('b', '1'), ('c', '2')):
        out = tmp_path / name / 'sheet.png'
        options = f'--count 11 --seed {seed} --out {out} --cfg-options data_root={data_root} crop_size=(96,96)'
        assert run(browse, monkeypatch, options) == 0  # more samples than images
        sheets.append(cv2.imread(str(out)))
        assert str(out) in capsys.readouterr().out
    assert sheets[0].shape == sheets[1].shape and (sheets[0] == sheets[1]).all()
    assert sheets[0].shape != sheets[2].shape or (sheets[0] != sheets[2]).any()
    assert sheets[0].shape[1] >= 4 * 2 * 96


def test_command_shows_test_images_unchanged(browse, data_root, tmp_path, monkeypatch):
    out = tmp_path / 'sheet.png'
    options = f'--split test --count 1 --out {out} --cfg-options data_root={data_root} image_scale=(128,128)'
    assert run(browse, monkeypatch, options) == 0
    sheet = cv2.imread(str(out))
    found = 0
    for path in sorted((data_root / 'img_dir' / 'test').iterdir()):
        photo = cv2.imread(str(path))
        _, _, (left, top), _ = cv2.minMaxLoc(cv2.matchTemplate(sheet, photo, cv2.TM_SQDIFF))
        found += (sheet[top : top + 128, left : left + 128] == photo).all()
    assert found == 1  # the file is in the sheet, pixel by pixel


def test_command_reports_mistakes(browse, data_root, tmp_path, monkeypatch, capsys):
    assert run(browse, monkeypatch, f'--cfg-options data_root={tmp_path}/absent') == 2
    assert 'does not exist' in capsys.readouterr().err
    options = f'--split val --cfg-options data_root={data_root} val_dataloader=None'
    assert run(browse, monkeypatch, options) == 2
    assert '`val_dataloader`' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(browse, monkeypatch, '--count 0')
