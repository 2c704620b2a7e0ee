"""Time of pasting defects online: beside seamlessClone, in a batch, in the loader and in a training; memory.

    python benchmarks/synthesis.py                     # everything, and the table of all benchmarks of the engine
    python benchmarks/synthesis.py --only paste loader # of library, paste, batch, memory, loader, training; or table

Without ``--data`` (a folder in the layout of the WTA set) demo images are rendered. The table takes what
``benchmarks/poisson.py`` and ``benchmarks/shapes.py`` recorded.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
import time
from pathlib import Path

import common  # first: it sets the number of threads
import cv2
import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from mmdefect.synthesis.engine import PasteEngine
from mmdefect.synthesis.foreground import find_foreground
from mmdefect.synthesis.library import CuttingRule, DefectLibrary, LabelledImage, open_library
from mmdefect.synthesis.places import location_codes
from mmdefect.synthesis.sampler import Background, Paste

ROOT = Path(__file__).resolve().parents[1]
PARTS = ('library', 'paste', 'batch', 'memory', 'loader', 'training')
#: Longest side of a defect before the operations, in pixels.
SIDES = (16, 32, 64, 96)
#: All eight at once; the scale is even, so that the sides above stay what they say.
OPERATIONS = dict(probability=1.0, scale=(0.9, 1.1))
PASTES = 80
#: Shapes of each donor in the rows with kept ones.
VARIANTS = 4
BATCHES = (1, 4, 16, 64)
#: Images of the loader and the training.
LOADED = 24
#: Untimed iterations of each training.
WARM_UP = 8


def read_pair(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return an image, RGB, and its label map."""
    label = cv2.imread(str(path).replace('img_dir', 'ann_dir'), cv2.IMREAD_UNCHANGED)
    return cv2.imread(str(path))[..., ::-1], label


def open_donors(data: Path, folder: Path) -> tuple[DefectLibrary, list[Path]]:
    """Return the library of the training split, and its clean images."""
    paths = sorted((data / 'img_dir' / 'train').glob('*.png'))
    images = [LabelledImage(str(p), lambda p=p: read_pair(p), str(p.stat().st_size)) for p in paths]
    library = open_library(images, CuttingRule(), folder)
    return library, [p for p, shows in zip(paths, library.defective, strict=True) if not shows]


def bench_library(data: Path, folder: Path) -> list[dict]:
    """Measure what there is to prepare: reading the training images and cutting their defects out, once."""
    wall, processor = time.perf_counter(), time.process_time()
    library, clean = open_donors(data, folder)
    return [
        dict(
            work='library',
            images=len(clean) + int(sum(library.defective)),
            donors=len(library),
            cpu_s=round(time.process_time() - processor, 2),
            wall_s=round(time.perf_counter() - wall, 2),
        )
    ]


def backgrounds_of(paths: list[Path], size: int) -> list[tuple[np.ndarray, Background]]:
    """Return clean images and their location codes at one size."""
    made = []
    for path in paths[:16]:
        image = cv2.imread(str(path))
        codes = location_codes(image.shape[:2], find_foreground(image, 384))
        codes = cv2.resize(codes, (size, size), interpolation=cv2.INTER_NEAREST)
        label = np.zeros((size, size), np.uint8)
        made.append((cv2.resize(image, (size, size)), Background(label, codes, image.shape[:2])))
    return made


def library_of_side(side: int, clean: list[Path], folder: Path) -> DefectLibrary:
    """Return ragged defects of one size: thresholded noise, bright on a clean image."""
    rng, pairs = np.random.default_rng(side), []
    for path in clean[:8]:
        image, label = cv2.imread(str(path))[..., ::-1].copy(), None
        label = np.zeros(image.shape[:2], np.uint8)
        noise = cv2.GaussianBlur(rng.normal(0, 1, (side, side)), (0, 0), max(1, side / 8))
        blob = (noise > -0.3 * noise.std()).view(np.uint8)
        blob[side // 4 : -side // 4, side // 2 - 1 : side // 2 + 1] = blob[side // 2, :] = 1  # one piece, of full width
        blob[:, side // 2] = 1
        row, column = (n * 2 // 5 - side // 2 for n in label.shape)
        window = slice(row, row + side), slice(column, column + side)
        label[window] = blob
        texture = np.clip(150 + rng.normal(0, 20, (side, side, 3)), 0, 255).astype(np.uint8)
        image[window][blob > 0] = texture[blob > 0]
        pairs.append((image, label))
    images = [LabelledImage(f'{side}-{i}', lambda pair=pair: pair, f'{side}-{i}') for i, pair in enumerate(pairs)]
    return open_library(images, CuttingRule(), folder)


def bench_paste(clean: list[Path], folder: Path) -> list[dict]:
    """Time the whole paste (sampling, eight operations, place, blend, label) and seamlessClone of the same patch.

    On the part of the image defects may lie across its outline, and what is beyond is cut off; in the frame they lie
    anywhere as a whole.
    """
    rows = []
    for size, bar in ((256, 2.0), (512, 5.0)):
        images = backgrounds_of(clean, size)
        anywhere = [(image, Background(known.label, location_codes((size, size)))) for image, known in images]
        for _, background in images:  # defects keep their size in pixels, whatever that of the file
            background.file_hw = None
        for side in SIDES:
            library = library_of_side(side, clean, folder)
            for place, shapes, variants in (('part', 'fresh', 0), ('frame', 'fresh', 0), ('frame', 'kept', VARIANTS)):
                policy = dict(
                    places=dict(even=1),
                    blends=dict(poisson=1),
                    max_extent=1.0,
                    min_inside=0,
                    min_overlap=0.5 if place == 'part' else 1.0,
                    operations=OPERATIONS,
                    variants=variants,
                )
                facts = dict(work='paste', photo=size, place=place, shapes=shapes, defect_px=side)
                chosen = images if place == 'part' else anywhere
                rows.append(facts | _race(PasteEngine(library, policy), chosen, bar))
                print(rows[-1])
    return rows


def _race(engine: PasteEngine, images: list, bar: float) -> dict:
    ours, theirs, extents = [], [], []
    policy = engine.policy
    # What is kept must have been met once: each variant of each donor several times on average.
    warm_up = 10 + 6 * policy.variants * len(engine.library)
    for seed in range(-warm_up, PASTES):
        image, background = images[seed % len(images)]
        pastes, wall, cpu = _timed_paste(engine, image, background, seed + 1000)
        if seed < 0 or not pastes:
            continue
        clone = _seamless_clone(image, pastes[0])
        if clone is None:
            continue
        ours.append((1e3 * wall, 1e3 * cpu))
        theirs.append(clone)
        # The patch has a ring of one pixel around what is pasted, and that is larger than the defect.
        extents.append(max(pastes[0].fitted.core.shape) - 2 * (1 + policy.grow))
    mine = common.summarize([wall for wall, _ in ours])
    cpu, clone_cpu = (float(np.median([c for _, c in times])) for times in (ours, theirs))
    return dict(
        after_operations_px=float(np.median(extents)),
        pastes=len(ours),
        wall_ms=mine['median_ms'],
        spread_ms=mine['spread_ms'],
        cpu_ms=cpu,
        bar_ms=bar,
        clone_cpu_ms=clone_cpu,
        times_faster=clone_cpu / cpu,
        under_bar=bool(cpu < bar),
        beats_clone=bool(cpu < clone_cpu),
    )


def bench_batch(library: DefectLibrary, clean: list[Path]) -> list[dict]:
    """Time a batch of float tensors, together and one by one, and count the operations that a device would get."""
    known, rows = backgrounds_of(clean, 512), []
    engine = PasteEngine(library, dict(places=dict(density=1), blends=dict(poisson=1)))
    for count in BATCHES:
        chosen = [known[i % len(known)] for i in range(count)]
        images = torch.stack(
            [
                torch.from_numpy(np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1))).float() / 255
                for image, _ in chosen
            ]
        )
        labels, backgrounds = torch.zeros(count, 512, 512, dtype=torch.int64), [background for _, background in chosen]

        def together(seed: int) -> None:
            engine(images, labels, _generators(seed, count), backgrounds)

        def one_by_one(seed: int) -> None:
            for sample in zip(images, labels, _generators(seed, count), backgrounds, strict=True):
                engine(*sample)

        times: dict[str, list[float]] = {'together': [], 'one by one': []}
        for seed in range(-1, max(3, 24 // count)):
            for name, make in (('together', together), ('one by one', one_by_one)):
                start = time.thread_time()
                make(seed)
                if seed >= 0:
                    times[name].append(1e3 * (time.thread_time() - start) / count)
        operations = []
        for make in (together, one_by_one):
            with _Counter() as counter:
                make(0)
            operations.append(counter.count)
        rows.append(
            dict(
                work='batch',
                photo=512,
                batch=count,
                cpu_ms_a_sample=float(np.median(times['together'])),
                one_by_one_cpu_ms=float(np.median(times['one by one'])),
                tensor_operations=operations[0],
                one_by_one_operations=operations[1],
            )
        )
        print(rows[-1])
    return rows


class _Counter(TorchDispatchMode):
    """Counts tensor operations, those on the CPU's own bookkeeping included."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


def _generators(seed: int, count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(1000 + seed * 100 + i) for i in range(count)]


def _timed_paste(engine: PasteEngine, image: np.ndarray, background: Background, seed: int):
    """Return the pastes, and seconds of wall and processor, of one call of the engine on a copy."""
    new, label = image.copy(), background.label.copy()
    start, start_cpu = time.perf_counter(), time.thread_time()
    pastes, _ = engine.sample(background, torch.Generator().manual_seed(seed))
    engine.write(new, label, pastes)
    return pastes, time.perf_counter() - start, time.thread_time() - start_cpu


def _seamless_clone(image: np.ndarray, paste: Paste) -> tuple[float, float] | None:
    """Return milliseconds, wall and processor, of seamlessClone for a prepared patch, moved into the frame."""
    patch = (paste.fitted.patch * 255).astype(np.uint8)
    mask = paste.mask.astype(np.uint8) * 255
    height, width = mask.shape
    if height > image.shape[0] - 2 or width > image.shape[1] - 2 or not mask.any():
        return None
    row = int(np.clip(paste.corner[0] + height // 2, height // 2 + 1, image.shape[0] - math.ceil(height / 2) - 1))
    column = int(np.clip(paste.corner[1] + width // 2, width // 2 + 1, image.shape[1] - math.ceil(width / 2) - 1))
    copy = mask.copy()  # seamlessClone writes into its mask
    start, start_cpu = time.perf_counter(), time.thread_time()
    cv2.seamlessClone(patch, image, copy, (column, row), cv2.NORMAL_CLONE)
    return 1e3 * (time.perf_counter() - start), 1e3 * (time.thread_time() - start_cpu)


def bench_memory(library: DefectLibrary, clean: list[Path]) -> list[dict]:
    """Measure the process's own memory after each epoch of pastes that touches every donor."""
    images = backgrounds_of(clean, 256)
    engine = PasteEngine(library, dict(places=dict(density=1, source=1), number={2: 1}))
    rows = []
    for epoch in range(1, 6):
        for seed in range(len(library)):
            image, background = images[seed % len(images)]
            generator = torch.Generator().manual_seed(epoch * 100000 + seed)
            engine.paste(image.copy(), background.label.copy(), background, generator)
            library[seed].image.sum()
        rows.append(dict(work='memory', epoch=epoch, own_mib=_own_memory()))
        print(rows[-1])
    return rows


def _own_memory() -> float:
    """Return resident memory in MiB without pages of files: those of the maps can be dropped at any time."""
    fields = dict(line.split(':') for line in Path('/proc/self/status').read_text().splitlines() if 'kB' in line)
    return int(fields['RssAnon'].split()[0]) / 1024


def bench_loader(data: Path, size: int = 512) -> list[dict]:
    """Measure the processor time of one sample of the training pipeline, with and without the recipe, in turns."""
    from mmengine.registry import init_default_scope

    from mmdefect.registry import DATASETS

    init_default_scope('mmseg')
    datasets = {
        name: DATASETS.build(_training_config(name, data, size).train_dataloader.dataset)
        for name in ('baseline', 'paste-poisson')
    }
    for dataset in datasets.values():
        dataset.set_sample_seed(0)
    times: dict[str, list[float]] = {name: [] for name in datasets}
    for number in range(-LOADED, 2 * LOADED):  # the first ones find the foreground of each image
        for name, dataset in datasets.items():
            start = time.thread_time()
            dataset[(number % LOADED) + len(dataset) * (number + LOADED)]
            if number >= 0:
                times[name].append(1e3 * (time.thread_time() - start))
    mean = {name: float(np.mean(values)) for name, values in times.items()}
    extra = mean['paste-poisson'] - mean['baseline']
    written = sum(
        transform._counts['written']
        for step in datasets['paste-poisson'].pipeline.transforms
        if type(step).__name__ == 'SynthesizeDefects'
        for transform in step.transforms
    )
    # The first round over the images is not timed, but writes defects as well.
    row = dict(
        work='loader',
        size=size,
        samples=2 * LOADED,
        pastes_a_sample=written / (3 * LOADED),
        baseline_cpu_ms=mean['baseline'],
        with_synthesis_cpu_ms=mean['paste-poisson'],
        extra_cpu_ms=extra,
        extra_ms_a_worker_and_batch_of_8=8 * extra / 2,
    )
    print(row)
    return [row]


def _training_config(name: str, data: Path, size: int):
    from mmdefect.apis import load_config
    from mmdefect.apis.train import prepare_train_config

    options = {
        'data_root': str(data),
        'crop_size': (size, size),
        'image_scale': (size, size),
        'train_dataloader.batch_size': 8,
        'train_dataloader.num_workers': 2,
        # Few images, so that each worker has found the foreground of each before the clock starts.
        'train_dataloader.dataset.indices': LOADED,
    }
    leaf = ROOT / f'configs/fast_scnn/fast-scnn_{name}_2k_wta-256.py'
    return prepare_train_config(load_config(leaf, options), tempfile.gettempdir())


def bench_training(data: Path, iterations: int, size: int = 512) -> list[dict]:
    """Time iterations of Fast-SCNN with and without the recipe, taking turns in one process."""
    from mmengine.registry import init_default_scope
    from mmengine.runner import Runner

    from mmdefect.registry import MODELS

    contestants = {}
    for name in ('baseline', 'paste-poisson'):
        cfg = _training_config(name, data, size)
        init_default_scope('mmseg')
        model = MODELS.build(cfg.model).train()
        optimizer = torch.optim.SGD(model.parameters(), 0.01)
        contestants[name] = model, optimizer, iter(Runner.build_dataloader(cfg.train_dataloader, seed=0))
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for step in range(iterations + WARM_UP):
        for name in (list(contestants), list(contestants)[::-1])[step % 2]:
            model, optimizer, batches = contestants[name]
            start = time.perf_counter()
            data_batch = model.data_preprocessor(next(batches), True)
            losses = model(**data_batch, mode='loss')
            model.parse_losses(losses)[0].backward()
            optimizer.step()
            optimizer.zero_grad()
            if step >= WARM_UP:
                times[name].append(1e3 * (time.perf_counter() - start))
    summary = {name: common.summarize(values) for name, values in times.items()}
    ratio = summary['paste-poisson']['median_ms'] / summary['baseline']['median_ms']
    row = dict(
        work='training',
        model='Fast-SCNN',
        size=size,
        batch=8,
        workers=2,
        device='cpu',
        iterations=iterations,
        baseline_ms=summary['baseline']['median_ms'],
        with_synthesis_ms=summary['paste-poisson']['median_ms'],
        spread_ms=summary['baseline']['spread_ms'],
        ratio=ratio,
        bar=1.05,
        within_bar=bool(ratio <= 1.05),
    )
    print(row)
    return [row]


def render_table() -> str:
    """Return the rows of all records of the engine as Markdown, one table a record and kind of work."""
    parts = []
    for name in (*(f'synthesis-{part}' for part in PARTS), 'poisson', 'shapes'):
        path = common.RESULTS / f'{name}.json'
        if not path.is_file():
            parts.append(f'### {name}\n\nnot measured: run `python benchmarks/{name.split("-")[0]}.py`')
            continue
        record = json.loads(path.read_text())
        facts = record['metadata']
        parts.append(
            f'### {name}\n\n`{facts["command"]}`, commit {facts["commit"]}, {facts["processor"]}, '
            f'{facts["cores"]} cores, {facts["threads"]} thread, load {facts["load_average_1min"]}'
        )
        groups: dict[tuple, list[dict]] = {}
        results = record['results']
        rows = results if isinstance(results, list) else [row for part in results.values() for row in part]
        for row in rows:
            shown = {head: value for head, value in row.items() if not isinstance(value, dict)}
            groups.setdefault(tuple(shown), []).append(shown)
        parts += [common.format_table(rows) for rows in groups.values()]
    return '\n\n'.join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, help='images in the layout of the WTA set; rendered by default')
    parser.add_argument('--only', nargs='+', choices=(*PARTS, 'table'), help='these parts; all by default')
    parser.add_argument('--iterations', type=int, default=12, help='of each training (default: 12)')
    args = parser.parse_args()
    if args.only == ['table']:
        print(render_table())
        return
    common.use_one_thread()
    wanted = args.only or PARTS
    with tempfile.TemporaryDirectory() as folder:
        data = args.data
        if data is None:
            from mmdefect.demo.write import write_demo_dataset

            write_demo_dataset(Path(folder) / 'demo', ('wta',), 60, (512, 512))
            data = Path(folder) / 'demo' / 'wta'
        os.environ['MMDEFECT_CACHE'] = str(Path(folder) / 'cache')
        library, clean = open_donors(data, Path(folder) / 'donors')
        print(library.census())
        parts = {
            'library': lambda: bench_library(data, Path(folder) / 'prepared'),
            'paste': lambda: bench_paste(clean, Path(folder) / 'donors'),
            'batch': lambda: bench_batch(library, clean),
            'memory': lambda: bench_memory(library, clean),
            'loader': lambda: bench_loader(data),
            'training': lambda: bench_training(data, args.iterations),
        }
        for name in PARTS:
            if name in wanted:
                facts = dict(data=args.data.name if args.data else 'demo 512x512')
                common.write_record(f'synthesis-{name}', parts[name](), facts)
    print(render_table())


if __name__ == '__main__':
    main()
