"""Defect metrics on one thread: all groups against AUPRO alone of others, and what a validation run pays.

Run from the root of the repository::

    python benchmarks/metrics.py

The first table judges 100 score maps of 256 x 256 (half of them with defects, .2 % of the pixels) from the first map to
the last number. anomalib is timed where it is installed. The second table runs Fast-SCNN over 512 x 512 images and
adds metrics: a share is the time of the metric divided by that of the network with mmseg's own post-processing, without
loading of images, which makes a real share smaller.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
from pathlib import Path

import common  # isort: skip  (sets the number of threads: before torch)

import torch
from torch import Tensor

from mmdefect.functional.metrics.defect import GROUPS, DefectCounters

CLASSES = ('normal', 'attached', 'broken')
VALIDATION, TEST = ('pixel', 'ranking'), GROUPS


def maps(count: int, size: int, classes: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Prediction, label and logits; every second image has three rectangles of defects."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for index in range(count):
        label = torch.zeros(size, size, dtype=torch.long)
        for number in range(3 if index % 2 else 0):
            top, left = torch.randint(0, size - 40, (2,), generator=generator).tolist()
            height, width = torch.randint(2, 20, (2,), generator=generator).tolist()
            label[top : top + height, left : left + width] = 1 + number % (classes - 1)
        logits = torch.randn(classes, size, size, generator=generator)
        logits[0] += 5
        for k in range(1, classes):
            logits[k][label == k] += 5
        made.append((logits.argmax(0), label, logits))
    return made


def ours(data: list, groups: tuple[str, ...], **kwargs) -> dict[str, float]:
    """Judge all maps."""
    counters = DefectCounters(CLASSES[: data[0][2].shape[0]], groups, **kwargs)
    for item in data:
        counters.update(*item)
    return counters.compute()


def sorted_aupro(data: list) -> float:
    """AUPRO as it is usually written: keep all maps, label components, sort every score."""
    import cv2

    scores, normal, weight, regions = [], [], [], 0
    for _, label, logits in data:
        number, found = cv2.connectedComponents((label > 0).to(torch.uint8).numpy(), connectivity=8)
        found = torch.from_numpy(found).flatten().long()
        area = torch.bincount(found, minlength=number).double()
        scores.append((logits[1] - logits[0]).flatten())
        normal.append(found == 0)
        weight.append(torch.where(found > 0, 1 / area[found], 0.0))
        regions += number - 1
    order = torch.cat(scores).argsort(descending=True)
    rate = torch.cat(normal)[order].double().cumsum(0)
    height = torch.cat(weight)[order].cumsum(0) / regions
    rate = rate / rate[-1]
    inside = rate <= 0.3
    return float(torch.trapezoid(height[inside], rate[inside]) / 0.3)


def anomalib_aupro(data: list) -> float:
    """AUPRO of anomalib, as its evaluator calls it."""
    from anomalib.metrics.aupro import _AUPRO

    metric = _AUPRO(fpr_limit=0.3)
    for _, label, logits in data:
        metric.update((logits[1] - logits[0]).sigmoid()[None], (label > 0).int()[None])
    return float(metric.compute())


def judge(seconds: float) -> list[dict]:
    """The first table."""
    data, three = maps(100, 256, 2), maps(100, 256, 3)
    contestants = {
        'all groups': lambda: ours(data, GROUPS),
        'all groups and a fit': lambda: ours(data, GROUPS, fit='IoU'),
        'AUPRO only': lambda: ours(data, ('pro',)),
        'all groups, 3 classes': lambda: ours(three, GROUPS),
        'AUPRO by sorting': lambda: sorted_aupro(data),
    }
    if importlib.util.find_spec('anomalib') is not None:
        contestants['anomalib AUPRO'] = lambda: anomalib_aupro(data)
    values = {'all groups': ours(data, GROUPS)['AUPRO30'] / 100, 'AUPRO by sorting': sorted_aupro(data)}
    if 'anomalib AUPRO' in contestants:
        values['anomalib AUPRO'] = anomalib_aupro(data)
    times = common.race(contestants, seconds, warm_up=1, most=15)
    return [
        {
            'contestant': name,
            'ms for 100 maps': entry['median_ms'],
            'spread ms': entry['spread_ms'],
            'times all groups': entry['median_ms'] / times['all groups']['median_ms'],
            'AUPRO30': round(values[name], 6) if name in values else '',
        }
        for name, entry in times.items()
    ]


def validate(seconds: float) -> list[dict]:
    """The second table."""
    import mmseg.models  # noqa: F401
    from mmengine.config import Config
    from mmengine.logging import MMLogger
    from mmengine.registry import init_default_scope
    from mmseg.evaluation import IoUMetric
    from mmseg.registry import MODELS
    from mmseg.structures import SegDataSample

    from mmdefect.apis import load_config
    from mmdefect.evaluation import DefectMetric

    MMLogger.get_instance('benchmark', log_level='ERROR')
    init_default_scope('mmseg')
    root = Path(__file__).parents[1]
    cfg: Config = load_config(root / 'configs/fast_scnn/fast-scnn_baseline_40k_wta-256.py')
    cfg.model.backbone.norm_cfg.type = cfg.model.decode_head.norm_cfg.type = 'BN'
    for head in cfg.model.auxiliary_head:
        head.norm_cfg.type = 'BN'
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).eval()
    with torch.no_grad():
        model.decode_head.conv_seg.bias[0] += 2  # an untrained net that sees mostly background, as a trained one
    label = maps(2, 512, 3)[1][1]
    rows = []
    for size in (256, 512):
        image = torch.randint(0, 256, (3, size, size), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)

        def run() -> SegDataSample:
            sample = SegDataSample(metainfo=dict(ori_shape=(512, 512), img_shape=(size, size), img_path='a.png'))
            sample.set_data(dict(gt_sem_seg=_pixels(label[None])))
            with torch.no_grad():
                return model.test_step(dict(inputs=[image], data_samples=[sample]))[0]

        result = run().to_dict()
        metrics = {
            'mmseg IoUMetric': IoUMetric(iou_metrics=['mIoU']),
            'DefectMetric, pixel': DefectMetric(),
            'DefectMetric of the configs (validation)': DefectMetric(groups=VALIDATION, calibration='fit'),
            'DefectMetric of the configs (test)': DefectMetric(groups='all', calibration='apply', offsets={}),
        }
        for metric in metrics.values():
            metric.dataset_meta = dict(classes=CLASSES)
        contestants = {'network': run}
        contestants |= {name: lambda m=m: m.process({}, [result]) for name, m in metrics.items()}
        times = common.race(contestants, seconds, warm_up=3)
        # once a validation, spread over 60 images: the numbers from the counts, and the fit of the offsets
        ending = {name: lambda m=m: _finish(m, result) for name, m in metrics.items() if name != 'mmseg IoUMetric'}
        ends = common.race(ending, seconds / 2, warm_up=1)
        for name, entry in times.items():
            once = ends[name]['median_ms'] / 60 if name in ends else 0.0
            rows.append(
                {
                    'network input': size,
                    'part': name,
                    'ms an image': entry['median_ms'] + once,
                    'of which at the end': once,
                    'share of the network': (entry['median_ms'] + once) / times['network']['median_ms'],
                }
            )
    return rows


def _finish(metric, result: dict) -> None:
    metric.process({}, [result])
    metric.compute_metrics = lambda counters: counters.compute()  # without the printed table
    metric.evaluate(1)


def _pixels(label: Tensor):
    from mmengine.structures import PixelData

    return PixelData(data=label)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--seconds', type=float, default=4.0, help='time for each contestant')
    args = parser.parse_args()
    common.use_one_thread()
    tables = {'judge': judge(args.seconds), 'validate': validate(args.seconds)}
    for rows in tables.values():
        print(common.format_table(rows), end='\n\n')
    versions = {}
    for package in ('anomalib', 'onedl-mmsegmentation'):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = 'not installed'
    print(common.write_record('metrics', tables, {'other_versions': versions}))


if __name__ == '__main__':
    main()
