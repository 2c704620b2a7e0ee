from __future__ import annotations

import numpy as np
import pytest

from mmdefect.diffusion.model import load_model
from mmdefect.diffusion.random_model import KINDS, save_pipeline


@pytest.fixture(scope='session')
def pipelines(tmp_path_factory):
    """Folders of the tiny pipelines, by kind."""
    root = tmp_path_factory.mktemp('pipelines')
    return {kind: save_pipeline(root / kind, kind) for kind in KINDS}


@pytest.fixture(params=KINDS)
def model(request, pipelines):
    """A freshly loaded tiny pipeline of each kind."""
    return load_model(pipelines[request.param])


@pytest.fixture(scope='session')
def images():
    """Four images with a bright spot each, ``(4, 32, 32, 3)`` uint8, and their masks, ``(4, 32, 32)`` bool."""
    random = np.random.default_rng(0)
    images = random.integers(60, 120, (4, 32, 32, 3)).astype(np.uint8)
    masks = np.zeros((4, 32, 32), bool)
    for index, (image, mask) in enumerate(zip(images, masks, strict=True)):
        mask[6 + 2 * index : 16 + 2 * index, 8:20] = True
        image[mask] += 100
    return images, masks
