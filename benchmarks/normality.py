"""What memories of good parts cost: CPU time of training and prediction with and without, in pairs, on one thread.

    python benchmarks/normality.py

FPN on a frozen ResNet-18 of three stages, as in configs/fpn; random weights and images, which cost the same.
"""

import resource
import statistics
import time
from collections.abc import Callable

import torch

import mmdefect.registration  # noqa: F401
from mmdefect.apis import load_config
from mmdefect.models.normality_neck import fill
from mmdefect.registry import MODELS, init_default_scope

LEAF = 'configs/fpn/fpn-r18-l3-frozen_baseline_900_mvtec-256.py'
IMAGE, CROP, REPEATS = 512, 256, 9


def build(kind: str | None, levels: list[int] | None) -> torch.nn.Module:
    """Return the model, its memories filled from noise."""
    options = {
        'image_scale': (IMAGE, IMAGE),
        'crop_size': (CROP, CROP),
        'augmentation': dict(scale=(1, 1)),
        'model.backbone.init_cfg': None,
    }
    if kind:
        options['normality'] = dict(kind=kind, **({'levels': levels} if levels else {}))
    cfg = load_config(LEAF, options)
    init_default_scope('mmseg')
    for part in (cfg.model.backbone, cfg.model.decode_head, cfg.model.auxiliary_head, cfg.model.neck):
        if part.get('norm_cfg'):
            part.norm_cfg.type = 'BN'
    if kind and cfg.model.neck.get('neck', {}).get('norm_cfg'):
        cfg.model.neck.neck.norm_cfg.type = 'BN'
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    if kind:
        model.eval()
        with torch.no_grad():
            fill(
                model.neck, lambda: (list(model.backbone(torch.randn(1, 3, IMAGE, IMAGE))) for _ in range(20)), 20, 4000
            )
    return model


def predict(model: torch.nn.Module, images: torch.Tensor) -> None:
    """One prediction."""
    model.eval()
    with torch.no_grad():
        model(images, mode='tensor')


def update(model: torch.nn.Module, images: torch.Tensor) -> None:
    """One training step without its optimiser."""
    model.train()
    model(images, mode='tensor').square().mean().backward()
    model.zero_grad()


def pair(one: Callable[[], None], other: Callable[[], None]) -> tuple[float, float]:
    """Return the median milliseconds of the first and the median ratio of the second to it."""
    one(), other()
    times = []
    for _ in range(REPEATS):
        spent = []
        for run in (one, other):
            start = time.process_time()
            run()
            spent.append(time.process_time() - start)
        times.append(spent)
    return 1000 * statistics.median(t[0] for t in times), statistics.median(t[1] / t[0] for t in times)


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    plain = build(None, None)
    print(f'{"memory":<22}{"predict 512":>14}{"update 4 x 256":>18}{"megabytes":>12}')
    for kind, levels in (('bank', None), ('bank', [0, 1, 2]), ('place', None), ('place', [0, 1, 2])):
        model = build(kind, levels)
        one, four = torch.randn(1, 3, IMAGE, IMAGE), torch.randn(4, 3, CROP, CROP)
        shown = [
            pair(lambda: predict(plain, one), lambda model=model: predict(model, one)),
            pair(lambda: update(plain, four), lambda model=model: update(model, four)),
        ]
        size = sum(b.numel() * b.element_size() for b in model.neck.memories.buffers()) / 1e6
        words = [f'{ratio:.2f} of {ms:.0f} ms' for ms, ratio in shown]
        print(f'{f"{kind}, levels {model.neck.levels}":<22}{words[0]:>14}{words[1]:>18}{size:>12.1f}')
    print(f'largest memory of the process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB')


if __name__ == '__main__':
    main()
