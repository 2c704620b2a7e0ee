"""A defect that only the normal pattern shows: a dot that is missing, or one too many, among dots at fixed places."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from mmdefect.apis import train
from tests.helpers.data import save
from tests.helpers.small import quick_options

REPO = Path(__file__).resolve().parents[2]
LEAF = REPO / 'configs/fpn/fpn-r18-l3-frozen_baseline_900_wta-256.py'
SIZE, DOTS = 96, 12


def write_dots(root: Path, **counts: tuple[int, int]) -> None:
    """Write good and defective images of each split; every dot looks like every other, and so does every gap."""
    rng = np.random.default_rng(0)
    cells = [(16 + 16 * row, 16 + 16 * column) for row in range(5) for column in range(5)]
    order = rng.permutation(len(cells))
    normal, empty = order[:DOTS], order[DOTS:]
    for split, (good, defective) in counts.items():
        for number in range(good + defective):
            image, label = np.full((SIZE, SIZE), 90, np.uint8), np.zeros((SIZE, SIZE), np.uint8)
            shown = set(normal.tolist())
            if number >= good:
                changed = int(rng.choice(normal if number % 2 else empty))
                shown ^= {changed}
                cv2.circle(label, cells[changed], 6, 1, -1)
            for cell in shown:
                cv2.circle(image, cells[cell], 6, 190, -1)
            noisy = np.clip(image + rng.normal(0, 4, image.shape), 0, 255).astype(np.uint8)
            save(root / 'img_dir' / split / f'{number}.png', np.repeat(noisy[..., None], 3, 2))
            save(root / 'ann_dir' / split / f'{number}.png', label)


@pytest.mark.slow
def test_three_defects_teach_what_is_missing_with_normality_only(tmp_path, monkeypatch):
    monkeypatch.setenv('MMDEFECT_CACHE', str(tmp_path / 'cache'))
    write_dots(tmp_path / 'data', train=(40, 3), val=(6, 24), test=(2, 2))
    size = (SIZE, SIZE)
    options = {
        **quick_options(200, crop_size=size, image_scale=size, batch_size=4),
        'data_root': str(tmp_path / 'data'),
        'classes': ['normal', 'defect'],
        'num_classes': 2,
        'palette': [[0, 0, 0], [255, 0, 0]],
        'loss_decode.alpha': [0.2, 0.8],
        'train_dataloader.sampler': dict(_delete_=True, type='MixingSampler', defective_share=0.5, shuffle=True),
        'augmentation': dict(scale=(1, 1), light=0),
        'model.backbone.init_cfg': None,
        'model.backbone.frozen_stages': 3,
        'default_hooks.checkpoint.save_best': None,
        'param_scheduler.1.end': 200,
    }
    found = {}
    for name, recipes in dict(plain=[], place=['place']).items():
        own = {'normality.levels': [0, 1, 2]} if recipes else {}  # a dot is as large as three of the finest cells
        runner = train(LEAF, work_dir=tmp_path / name, cfg_options={**options, **own}, recipes=recipes)
        found[name] = runner.message_hub.get_scalar('val/any_AP').current()
    assert found['place'] > 80 and found['plain'] < 40, found
