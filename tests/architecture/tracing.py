"""Follow one training image through the package: which files it passes, in which order."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from .layers import PACKAGE


def files_passed(call: Callable[[], object]) -> list[str]:
    """Return the files of the package that a call enters, in order, a file again when it is entered again."""
    path: list[str] = []
    prefix = f'{PACKAGE}/'

    def record(frame, event, _argument):
        name = frame.f_code.co_filename
        if event == 'call' and name.startswith(prefix):
            name = name[len(prefix) :]
            if not path or path[-1] != name:
                path.append(name)

    sys.setprofile(record)
    try:
        call()
    finally:
        sys.setprofile(None)
    return path


def path_of_a_pasted_image(leaf: Path, data_root: Path, defects: int = 2, draws: int = 400) -> list[str]:
    """Return the files that a training image of a leaf passes on which so many defects are pasted."""
    from mmengine.registry import DATA_SAMPLERS, init_default_scope

    from mmdefect.apis.config import load_config
    from mmdefect.registry import DATASETS

    cfg = load_config(leaf, {'data_root': str(data_root)})
    init_default_scope('mmseg')
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    sampler = iter(DATA_SAMPLERS.build(dict(cfg.train_dataloader.sampler), default_args=dict(dataset=dataset, seed=0)))
    pasted: list[int] = []
    pack = dataset.pipeline.transforms[-1]

    def counting(results):
        pasted.append(len(results.get('instances') or ()))
        return pack(results)

    dataset.pipeline.transforms[-1] = counting
    for _ in range(40):  # what is made once is made now
        dataset[next(sampler)]
    for _ in range(draws):
        index = next(sampler)
        path = files_passed(lambda index=index: dataset[index])
        if pasted[-1] == defects:
            return path
    raise AssertionError(f'none of {draws} images got {defects} pasted defects')
