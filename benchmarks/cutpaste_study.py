"""Every way of scoring one trained backbone, on pastes in held-out normal images and on the test set, from one pass
each.

    python benchmarks/cutpaste_study.py --data-root data/mvtec_ad --category screw --arm patch64 --seed 0 \\
        --config configs/cutpaste/resnet18-l3_3way-patch64_256_mvtec-256.py --checkpoint work_dirs/screw/iter_128.pth
    python benchmarks/cutpaste_study.py ... --detectors 'bank' 'bank, 4 turns' --suffix _bank
    python benchmarks/cutpaste_study.py --table

The rule was fixed before this scored a test image: of the ways of scoring, the one with the highest AUROC of pasted
against untouched held-out images, averaged over categories, for the backbone at hand. The test set is scored once in
every way, so that the table shows what the rule chose and what it passed over. `tools/anomaly.py eval` gives the same
numbers for one way at a time. `--detectors` scores ways that were fixed by argument in docs/results/cutpaste.md
instead, with the detector of the tool and no held-out measure.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path

import common
import numpy as np
import torch

from mmdefect.apis import load_config
from mmdefect.apis.anomaly_eval import pixel_metrics, test_images
from mmdefect.apis.anomaly_fit import detector_of_config, fit_detector, held_out_views, iter_batches
from mmdefect.datasets.good_images import GoodImageDataset
from mmdefect.functional.density import Moments, fit_gaussian, fit_kernel_density
from mmdefect.functional.heat_maps import upsample_cells
from mmdefect.functional.metrics.ranking import image_ranking
from mmdefect.models.anomaly_detector import AnomalyDetector

RECORDS = Path(__file__).parents[1] / 'docs' / 'results' / 'records' / 'cutpaste'
#: Layers of each way, whether it takes the maximum of the heat map, density.
WAYS = {
    'layer3 image gaussian': (('layer3',), False, 'gaussian'),
    'layer2 image gaussian': (('layer2',), False, 'gaussian'),
    'layer3 heat gaussian': (('layer3',), True, 'gaussian'),
    'layer2+layer3 heat gaussian': (('layer2', 'layer3'), True, 'gaussian'),
    'layer2+layer3 heat kernel': (('layer2', 'layer3'), True, 'kernel'),
}
POINTS = 4096
#: Settings of detectors by the name of the way. A patch of 24 pixels is 3 x 3 cells of either layer.
_BANK = dict(layers=('layer2', 'layer3'), density='bank', score='heat', normalize=False, patch=24)
DETECTORS = {'bank': _BANK, 'bank, 4 turns': dict(_BANK, turns=4)}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--table', action='store_true', help='print the table of all records')
    parser.add_argument('--data-root')
    parser.add_argument('--category')
    parser.add_argument('--config', default='configs/cutpaste/resnet18-l3_3way-patch64_256_mvtec-256.py')
    parser.add_argument('--checkpoint', help='of the training; none: the untrained backbone')
    parser.add_argument('--weights', help='ImageNet weights, in place of those in the config')
    parser.add_argument('--arm', default='untrained', help='name for the table')
    parser.add_argument('--seed', type=int, default=0, help='of the training, for the table; of random weights')
    parser.add_argument('--detectors', nargs='+', choices=DETECTORS, help='score these ways instead')
    parser.add_argument('--suffix', default='', help='of the record')
    parser.add_argument('--updates', type=int, default=0, help='of the training, for the table')
    return parser.parse_args()


class Reader:
    """Reads all layers in one pass, and makes of them what each way needs."""

    def __init__(self, detector: AnomalyDetector) -> None:
        self.features, self.patch = detector.features, detector.settings.patch

    def __call__(self, images: torch.Tensor) -> dict[tuple, torch.Tensor]:
        rows = {}
        reading = {}
        with torch.inference_mode():
            outputs = dict(
                zip(
                    ('layer2', 'layer3'),
                    self.features.read(
                        self.features.prepare(images).contiguous(memory_format=torch.channels_last),
                        self.features._fused(images.shape[2:]),
                    ),
                    strict=True,
                )
            )
            for layers, heat, _ in WAYS.values():
                if (layers, heat) in reading:
                    continue
                self.features.read = lambda *_, own=[outputs[n] for n in layers]: own  # one forward for all ways
                reading[layers, heat] = True
                rows[layers, heat] = (
                    self.features.embed_map(images, self.patch) if heat else self.features.embed(images)
                )
            del self.features.read
        return rows


def fit(reader: Reader, parts: dict[str, list[str]], size_hw: tuple[int, int]) -> dict[str, dict[str, object]]:
    """Return for each way the density of the part that was trained on, and of all normal images."""
    moments: dict[tuple, Moments] = {}
    points: dict[tuple, list] = defaultdict(list)
    generator = torch.Generator().manual_seed(0)
    share = -(-2 * POINTS // sum(map(len, parts.values())))
    waiting: dict[tuple, list] = defaultdict(list)
    for part, paths in parts.items():
        for _, images in iter_batches(paths, size_hw, 8, f'normal images: {part}'):
            for key, rows in reader(images).items():
                waiting[key, part].append(rows.reshape(-1, rows.shape[-1]))
                if key[1] and any((layers, heat) == key and d == 'kernel' for layers, heat, d in WAYS.values()):
                    for own in rows.flatten(1, 2):
                        points[key, part].append(own[torch.randperm(len(own), generator=generator)[:share]].clone())
                if sum(map(len, waiting[key, part])) >= 8192:
                    add(moments, (key, part), torch.cat(waiting.pop((key, part))))
    for place, rows in waiting.items():
        add(moments, place, torch.cat(rows))
    densities = {}
    for name, (layers, heat, kind) in WAYS.items():
        key = (layers, heat)
        if kind == 'kernel':
            own, other = torch.cat(points[key, 'fit']), torch.cat(points[key, 'held_out'])
            densities[name] = {
                k: fit_kernel_density(v, None, POINTS, torch.Generator().manual_seed(0))
                for k, v in (('fit', own), ('all', torch.cat([own, other])))
            }
        else:
            own = moments[key, 'fit']
            densities[name] = dict(fit=fit_gaussian(own), all=fit_gaussian(own.merge(moments[key, 'held_out'])))
    return densities


def add(moments: dict, place: tuple, rows: torch.Tensor) -> None:
    """Add rows to the moments of a place."""
    new = Moments.of(rows)
    moments[place] = moments[place].merge(new) if place in moments else new


def score(reader: Reader, batches, densities: dict, which: str, keep_heat: bool) -> tuple[dict, dict]:
    """Return for each way the score of each image, and the heat maps of some."""
    scores, heats = defaultdict(list), defaultdict(list)
    for images in batches:
        rows = reader(images)
        for name, (layers, heat, _) in WAYS.items():
            own, density = rows[layers, heat], densities[name][which]
            if not heat:
                scores[name].append(density.distance(own))
                continue
            maps = upsample_cells(
                density.distance(own.flatten(0, 2)).view(own.shape[:3]), tuple(images.shape[2:]), reader.patch
            )
            scores[name].append(maps.amax((1, 2)))
            if keep_heat and len(layers) > 1:
                heats[name].append(maps.half())
    return (
        {name: torch.cat(v).double().numpy() for name, v in scores.items()},
        {name: torch.cat(v).numpy() for name, v in heats.items()},
    )


def main() -> None:
    args = parse_args()
    if args.table:
        print(table())
        return
    common.use_one_thread()
    options = {'model.backbone.init_cfg.checkpoint': args.weights} if args.weights else None
    cfg = load_config(args.config, options)
    if args.detectors:
        write(args, [score_detector(args, cfg, name) for name in args.detectors])
        return
    detector = detector_of_config(cfg, args.checkpoint, args.seed, layers=('layer2', 'layer3'), patch=32)
    reader, size_hw = Reader(detector), detector.settings.size_hw
    parts = {
        p: [i['img_path'] for i in GoodImageDataset(args.data_root, args.category, p).load_data_list()]
        for p in ('fit', 'held_out')
    }
    densities = fit(reader, parts, size_hw)
    images, pasted = held_out_views(parts['held_out'], size_hw, 'union', 2, 0)
    chosen, _ = score(reader, images.split(8), densities, 'fit', False)
    samples = test_images(args.data_root, args.category)
    defective = np.array([not s.is_clean for s in samples])
    tested, heats = score(
        reader,
        (b for _, b in iter_batches([s.img_path for s in samples], size_hw, 8, 'test images')),
        densities,
        'all',
        True,
    )
    rows = []
    for name in WAYS:
        ranking = image_ranking(tested[name], defective)
        row = dict(
            way=name,
            held_out_AUROC=100 * image_ranking(chosen[name], pasted)['AUROC'],
            AUROC=100 * ranking['AUROC'],
            AP=100 * ranking['AP'],
        )
        if name in heats:
            row |= pixel_metrics(heats[name], samples)
        rows.append({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
        print(rows[-1], flush=True)
    write(args, rows)


def score_detector(args: argparse.Namespace, cfg, name: str) -> dict:
    """Fit the detector of one way on all normal images and score the test set once."""
    settings = DETECTORS[name]
    heat = settings.get('score') == 'heat'
    normal = [i['img_path'] for i in GoodImageDataset(args.data_root, args.category).load_data_list()]
    detector = fit_detector(
        detector_of_config(cfg, args.checkpoint, args.seed, **settings),
        normal,
        'fast' if heat else None,
        folds=0,
        batch=8,
        progress=name,
    )
    samples = test_images(args.data_root, args.category)
    found = [
        detector.score_images(images)
        for _, images in iter_batches(
            [s.img_path for s in samples], detector.settings.size_hw, 8, f'test images: {name}'
        )
    ]
    ranking = image_ranking(
        torch.cat([scores for scores, _ in found]).double().numpy(), np.array([not s.is_clean for s in samples])
    )
    row = dict(way=name, AUROC=100 * ranking['AUROC'], AP=100 * ranking['AP'])
    if heat:
        row |= pixel_metrics(torch.cat([maps for _, maps in found]).half().numpy(), samples)
    print(row, flush=True)
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}


def write(args: argparse.Namespace, rows: list[dict]) -> None:
    """Write the record."""
    normal = len(GoodImageDataset(args.data_root, args.category).load_data_list())
    tested = len(test_images(args.data_root, args.category))
    command = 'python benchmarks/cutpaste_study.py --data-root DATA'
    command += f' --category {args.category} --arm {args.arm} --seed {args.seed}'
    if args.detectors:
        command += ' --detectors ' + ' '.join(f"'{name}'" for name in args.detectors) + f' --suffix {args.suffix}'
    facts = dict(
        command=command,
        category=args.category,
        arm=args.arm,
        seed=args.seed,
        updates=args.updates,
        config=Path(args.config).name,
        normal_images=normal,
        test_images=tested,
    )
    print(common.write_record(f'{args.category}_{args.arm}_s{args.seed}{args.suffix}', rows, facts, RECORDS))


def table() -> str:
    """Return the Markdown table of all records: mean over seeds, in percent."""
    groups = defaultdict(list)
    for path in sorted(RECORDS.glob('*.json')):
        record = json.loads(path.read_text())
        for row in record['results']:
            groups[record['metadata']['category'], record['metadata']['arm'], row['way']].append(row)
    lines = []
    for (category, arm, way), rows in groups.items():
        line = dict(category=category, backbone=arm, way=way, seeds=len(rows))
        for key in ('held_out_AUROC', 'AUROC', 'AP', 'pixel_AUROC', 'pixel_AP', 'AUPRO'):
            values = [row[key] for row in rows if key in row]
            spread = f' ± {np.std(values, ddof=1):.2f}' if len(values) > 1 else ''
            line[key] = f'{np.mean(values):.2f}{spread}' if values else '–'
        lines.append(line)
    return common.format_table(lines)


if __name__ == '__main__':
    main()
