"""Deployed models: ONNX Runtime against eager PyTorch, tools/predict.py against the bare session, 8 bits, memory.

Run from the root of the repository; parts can be run alone, the record keeps the others::

    python benchmarks/inference.py runtime                                  # random weights: only time is measured
    python benchmarks/inference.py pipeline                                 # images/s from files to files
    python benchmarks/inference.py memory                                   # 12000 x 12000 in tiles
    python benchmarks/inference.py int8 --checkpoint CKPT --data data/demo/wta   # IoU before and after
    python benchmarks/inference.py table                                    # prints all tables from the record

Contestants take turns in one process; ratios are of medians of one run. With one thread the clock is the processor time
of that thread, with two it is the wall.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common  # isort: skip  (sets the number of threads: before torch and NumPy)

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

LEAVES = {
    'Fast-SCNN': 'fast_scnn/fast-scnn_baseline_40k_wta-256.py',
    'BiSeNetV2': 'bisenetv2/bisenetv2_baseline_40k_wta-256.py',
}
SIZE = 512


def make_model(name: str, folder: Path, threads: int = 1):
    """Return the torch predictor and the exported file of a model at 512, random weights."""
    from mmdefect.apis.inference import open_checkpoint
    from mmdefect.inference.export import export_model
    from tests.helpers.deployment import write_checkpoint

    path = write_checkpoint(
        folder / f'{name}.pth',
        ROOT / 'configs' / LEAVES[name],
        {'crop_size': (SIZE, SIZE), 'image_scale': (SIZE, SIZE)},
    )
    predictor = open_checkpoint(path)
    return predictor, export_model(predictor.network, predictor.info, folder / f'{name}.onnx')


def measure_runtime(seconds: float, threads_of: list[int], models: list[str], batches: list[int]) -> list[dict]:
    """Time both backends and the file in 8 bits, uint8 images in, labels and probabilities out.

    Beside them a product of two matrices by NumPy: what the same core does in float32 at best.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from mmdefect.deployment.predictor import OnnxPredictor
    from mmdefect.deployment.quantization import quantize
    from tests.helpers.deployment import make_images

    left, right = np.ones((1024, 1152), np.float32), np.ones((1152, 4096), np.float32)
    product_gflop = 2e-9 * left.size * right.shape[1]
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in models:
            predictor, path = make_model(name, Path(scratch))
            with FlopCounterMode(display=False) as counter, torch.no_grad():
                predictor.network.core(torch.zeros(1, 3, SIZE, SIZE))
            gflop = counter.get_total_flops() / 1e9
            folder = Path(scratch) / f'images_{name}'
            folder.mkdir()
            for k, photo in enumerate(make_images(8, SIZE, SIZE)):
                np.save(folder / f'{k}.npy', photo)
            quantize(path, Path(scratch) / f'{name}_int8.onnx', folder)
            for threads in threads_of:
                torch.set_num_threads(threads)
                session = OnnxPredictor(path, threads=threads)
                small = OnnxPredictor(Path(scratch) / f'{name}_int8.onnx', threads=threads)
                for batch in batches:
                    images, limits = make_images(batch, SIZE, SIZE), predictor.info.thresholds
                    contestants = {
                        'torch': lambda: predictor.infer(images, limits),
                        'onnxruntime': lambda: session.infer(images, limits),
                        'int8': lambda: small.infer(images, limits),
                    }
                    if threads == 1:
                        contestants['product'] = lambda: left @ right
                    times = race_wall(contestants, seconds) if threads > 1 else common.race(contestants, seconds, 2)
                    torch_ms, ort_ms, int8_ms = (times[k]['median_ms'] / batch for k in list(contestants)[:3])
                    speed = (
                        {}
                        if threads > 1
                        else dict(
                            gflop_s=1e3 * gflop / ort_ms,
                            torch_gflop_s=1e3 * gflop / torch_ms,
                            product_gflop_s=1e3 * product_gflop / times['product']['median_ms'],
                        )
                    )
                    rows.append(
                        dict(
                            model=name,
                            threads=threads,
                            batch=batch,
                            clock='wall' if threads > 1 else 'cpu',
                            torch_ms=torch_ms,
                            onnxruntime_ms=ort_ms,
                            int8_ms=int8_ms,
                            times_faster=torch_ms / ort_ms,
                            int8_times_faster=torch_ms / int8_ms,
                            gflop=gflop,
                            **speed,
                            spread_ms=times['onnxruntime']['spread_ms'] / batch,
                            calls=times['torch']['calls'],
                        )
                    )
                    print(rows[-1], flush=True)
            torch.set_num_threads(1)
    return rows


def race_wall(contestants: dict, seconds: float) -> dict:
    """Time callables in turns by the wall clock: they run on several threads."""
    for call in contestants.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in contestants}
    end = time.perf_counter() + seconds * len(contestants)
    while time.perf_counter() < end or len(times[next(iter(times))]) < 5:
        for name, call in contestants.items():
            start = time.perf_counter()
            call()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: common.summarize(values) for name, values in times.items()}


def measure_pipeline(rounds: int, models: list[str], threads_of: list[int], count: int) -> list[dict]:
    """Compare files to label maps and tables with the session alone on the same images, in memory, in turns.

    The share of the main thread, which runs the network, is what is left where other cores decode, measure and write.
    """

    from mmdefect.deployment.predict import JobSettings, predict_to_folder
    from mmdefect.deployment.predictor import OnnxPredictor
    from mmdefect.deployment.sources import find_sources

    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / 'images'
        subprocess.run(
            [
                sys.executable,
                str(ROOT / 'tools' / 'make_demo_data.py'),
                str(folder),
                '--layout',
                'wta',
                '--images',
                str(count),
                '--size',
                str(SIZE),
            ],
            check=True,
            capture_output=True,
        )
        sources = find_sources([str(folder / 'wta' / 'img_dir')])
        images = [cv2.imread(str(s.path))[..., ::-1] for s in sources]
        for name in models:
            _, path = make_model(name, Path(scratch))
            for threads, batch in ((t, 4) for t in threads_of):
                session = OnnxPredictor(path, threads=threads)
                limits = (0.97,) * len(session.info.thresholds)  # a random network finds defects everywhere else

                def bare():
                    for start in range(0, len(images), batch):
                        session.infer(np.stack(images[start : start + batch]), limits)

                def whole(number: int):
                    predict_to_folder(
                        session,
                        sources,
                        Path(scratch) / f'out_{name}_{threads}_{number}',
                        JobSettings(thresholds=limits, min_area_px=1000, batch=batch),
                    )

                bare()
                times: dict[str, list[tuple[float, float, float]]] = {'bare': [], 'whole': []}
                for number in range(rounds):
                    for key, call in (('bare', bare), ('whole', lambda n=number: whole(n))):
                        start = time.perf_counter(), time.process_time(), time.thread_time()
                        call()
                        end = time.perf_counter(), time.process_time(), time.thread_time()
                        times[key].append(tuple(b - a for a, b in zip(start, end, strict=True)))
                wall, cpu, main_thread = (
                    {key: len(images) / float(np.median([v[i] for v in values])) for key, values in times.items()}
                    for i in range(3)
                )
                rows.append(
                    dict(
                        model=name,
                        size=SIZE,
                        threads=threads,
                        batch=batch,
                        images=len(images),
                        rounds=rounds,
                        bare_images_s=wall['bare'],
                        predict_images_s=wall['whole'],
                        share=wall['whole'] / wall['bare'],
                        share_of_cpu=cpu['whole'] / cpu['bare'],
                        share_of_main_thread=main_thread['whole'] / main_thread['bare'],
                        aim=0.9,
                    )
                )
                print(rows[-1], flush=True)
    return rows


def measure_memory(sides: list[int]) -> list[dict]:
    """Predict large images in tiles in processes of their own; note the peak of the resident set."""
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        _, path = make_model('Fast-SCNN', Path(scratch))
        # decoded from a file, and mapped from an array
        for side, suffix in [(s, f) for f in ('.png', '.npy') for s in sides]:
            rng = np.random.default_rng(0)
            tile = cv2.resize(
                rng.integers(0, 256, (40, 40, 3)).astype(np.uint8), (1000, 1000), interpolation=cv2.INTER_CUBIC
            )
            image = np.tile(tile, (-(-side // 1000), -(-side // 1000), 1))[:side, :side]
            file = Path(scratch) / f'large{suffix}'
            if suffix == '.npy':
                np.save(file, image)
            else:
                cv2.imwrite(str(file), image, [cv2.IMWRITE_PNG_COMPRESSION, 1])
            del image
            code = (
                'import resource, sys, time; sys.argv[0] = "predict.py"; start = time.time()\n'
                'from mmdefect.deployment.predict import predict\n'
                f'predict({str(path)!r}, [{str(file)!r}], {str(Path(scratch) / f"out_{side}{suffix}")!r}, '
                'dict(threads=1), '
                f'tile=[{SIZE}], overlap=64, min_area_px=50, thresholds=["0.97"], batch=2, show_progress=False)\n'
                'print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.time() - start)'
            )
            done = subprocess.run(
                [sys.executable, '-c', code],
                capture_output=True,
                text=True,
                cwd=ROOT,
                env={**__import__('os').environ, 'PYTHONPATH': str(ROOT)},
            )
            if done.returncode:
                raise RuntimeError(done.stderr)
            peak, seconds = done.stdout.split()[-2:]
            rows.append(
                dict(
                    model='Fast-SCNN',
                    side=side,
                    file=suffix,
                    tile=SIZE,
                    peak_mib=int(peak) / 1024,
                    image_mib=3 * side * side / 2**20,
                    seconds=float(seconds),
                    aim_mib=3072,
                )
            )
            file.unlink()
            print(rows[-1], flush=True)
    return rows


def measure_int8(checkpoint: Path, data: Path, seconds: float) -> list[dict]:
    """Quantise with training images; measure IoU on the test images before and after, and the time."""
    from mmdefect.apis.inference import open_checkpoint
    from mmdefect.deployment.decoding import read_image
    from mmdefect.deployment.predictor import OnnxPredictor
    from mmdefect.deployment.quantization import quantize
    from mmdefect.deployment.sources import find_sources
    from mmdefect.inference.export import export_model

    predictor = open_checkpoint(checkpoint)
    sources = find_sources([str(data / 'img_dir' / 'test')])
    images = [read_image(s.path).pixels for s in sources]
    labels = [cv2.imread(str(data / 'ann_dir' / 'test' / f'{s.path.stem}.png'), cv2.IMREAD_UNCHANGED) for s in sources]
    with tempfile.TemporaryDirectory() as scratch:
        path = export_model(predictor.network, predictor.info, Path(scratch) / 'float.onnx')
        used = quantize(path, Path(scratch) / 'int8.onnx', data / 'img_dir' / 'train')
        models = {'float32': OnnxPredictor(path, 1), 'int8': OnnxPredictor(Path(scratch) / 'int8.onnx', 1)}
        batch = np.stack(images[:1])
        times = common.race({k: (lambda m=m: m.infer(batch, m.info.thresholds)) for k, m in models.items()}, seconds, 2)
        rows = []
        for name, model in models.items():
            iou = intersection_over_union(model, images, labels)
            rows.append(
                dict(
                    model=predictor.info.name,
                    weights=name,
                    test_images=len(images),
                    calibration_images=used,
                    **{f'IoU_{c}': v for c, v in zip(predictor.info.classes, iou, strict=True)},
                    fg_mIoU=float(np.nanmean(iou[1:])),
                    mib=Path(model.path).stat().st_size / 2**20,
                    ms=times[name]['median_ms'],
                )
            )
            print(rows[-1], flush=True)
        for row in rows:
            row['loss_of_fg_mIoU'] = rows[0]['fg_mIoU'] - row['fg_mIoU']
            row['times_faster'] = rows[0]['ms'] / row['ms']
    return rows


def intersection_over_union(model, images: list, labels: list) -> list[float]:
    """Return IoU of each class over all pixels, in percent; NaN for a class that does not occur."""
    count = len(model.info.classes)
    table = np.zeros((count, count), np.int64)
    for image, label in zip(images, labels, strict=True):
        got = model.predict_batch([image])[0].label_map
        keep = label < count
        table += np.bincount(label[keep].astype(int) * count + got[keep], minlength=count * count).reshape(count, count)
    union = table.sum(0) + table.sum(1) - np.diag(table)
    return [100 * table[k, k] / union[k] if union[k] else float('nan') for k in range(count)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('part', choices=['runtime', 'pipeline', 'memory', 'int8', 'table'])
    parser.add_argument('--seconds', type=float, default=5.0, help='of a contestant (default: 5)')
    parser.add_argument(
        '--threads', type=int, nargs='+', default=[1, 2], help='of the runtime and the pipeline (default: 1 2)'
    )
    parser.add_argument('--rounds', type=int, default=3, help='of the pipeline (default: 3)')
    parser.add_argument('--sides', type=int, nargs='+', default=[3000, 12000], help='of the large images')
    parser.add_argument(
        '--models', nargs='+', default=list(LEAVES), choices=list(LEAVES), help='of the runtime and the pipeline'
    )
    parser.add_argument('--batches', type=int, nargs='+', default=[1, 4], help='of the runtime (default: 1 4)')
    parser.add_argument('--images', type=int, default=60, help='of the pipeline (default: 60)')
    parser.add_argument('--checkpoint', type=Path, help='a trained model, for int8')
    parser.add_argument('--data', type=Path, default=Path('data/demo/wta'), help='its data set, for int8')
    args = parser.parse_args()
    file = common.RESULTS / 'inference.json'
    parts = json.loads(file.read_text())['results'] if file.is_file() else {}
    if args.part == 'int8' and args.checkpoint is None:
        parser.error('int8 needs --checkpoint')
    if args.part != 'table':
        common.use_one_thread()
        measure = {
            'runtime': lambda: measure_runtime(args.seconds, args.threads, args.models, args.batches),
            'pipeline': lambda: measure_pipeline(args.rounds, args.models, args.threads, args.images),
            'memory': lambda: measure_memory(args.sides),
            'int8': lambda: measure_int8(args.checkpoint, args.data, args.seconds),
        }
        rows = measure[args.part]()
        facts = common.environment(('torch', 'numpy', 'opencv-python', 'onnxruntime'))
        options = {
            'runtime': ['--threads', *args.threads, '--models', *args.models, '--batches', *args.batches],
            'pipeline': ['--threads', *args.threads, '--models', *args.models],
            'memory': ['--sides', *args.sides],
        }.get(args.part, [])
        facts['command'] = ' '.join(map(str, ['python benchmarks/inference.py', args.part, *options]))
        parts[args.part] = dict(rows=rows, metadata=facts)
        common.write_record(
            'inference', parts, dict(command='python benchmarks/inference.py PART')
        )  # no path of a machine
    for name, part in parts.items():
        facts = part['metadata']
        print(
            f'\n### {name}\n\n`{facts["command"]}`, commit {facts["commit"]}, {facts["processor"]}, load '
            f'{facts["load_average_1min"]}\n\n{common.format_table(part["rows"])}'
        )
    return 0


if __name__ == '__main__':
    sys.exit(main())
