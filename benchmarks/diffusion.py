"""Memory and time of generation on full-size architectures with random weights: what a GPU must have.

Run from the root of the repository, on a machine with a CUDA device::

    python benchmarks/diffusion.py
    python benchmarks/diffusion.py --kinds sd --works sample --batches 1 2 4 8 --dtype bf16

Shapes are those of Stable Diffusion 1.5 and SDXL 1.0, so memory and time are, too; the images are noise. `edit` is
inversion, null text and one word. A case that does not fit is recorded as such.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import common  # isort: skip  (sets the number of threads: before torch)

import torch

from mmdefect.diffusion.edit import edit_images, invert_images
from mmdefect.diffusion.inversion import DDIMSteps, NullTextSettings
from mmdefect.diffusion.model import DTYPES, LatentModel
from mmdefect.diffusion.prompt_edit import EditSettings
from mmdefect.diffusion.random_model import build_pipeline
from mmdefect.diffusion.sample import BlendSettings, generate
from mmdefect.synthesis.streams import stream_generator

WORKS = ('sample', 'edit')
SOURCE, TARGET = 'photo of a crack defect image', 'photo of a rust defect image'


def make_model(kind: str, size: str, device: str, dtype: str) -> LatentModel:
    """Build a pipeline on a device; weights are made there, in the format that is measured."""
    with torch.device(device):
        pipeline = build_pipeline(kind, size)
    pipeline.to(device=device, dtype=DTYPES[dtype])
    return LatentModel(pipeline, kind, f'random {kind}', device, DTYPES[dtype])


def run_sample(model: LatentModel, batch: int, size_hw: tuple[int, int], steps: int) -> None:
    """Generate in a mask of a sixteenth of each image."""
    images, masks = torch.rand(batch, 3, *size_hw), torch.zeros(batch, 1, *size_hw, dtype=torch.bool)
    masks[..., size_hw[0] // 4 : size_hw[0] // 2, size_hw[1] // 4 : size_hw[1] // 2] = True
    generators = [stream_generator(i, 'benchmark') for i in range(batch)]
    generate(model, images, masks, model.encode_guided([SOURCE] * batch), generators, BlendSettings(steps))


def run_edit(model: LatentModel, batch: int, size_hw: tuple[int, int], steps: int) -> None:
    """Invert images, optimise all inner steps, edit one word."""
    settings, plan = EditSettings(blend_start=1.0), DDIMSteps.of(model, steps)
    null_text = NullTextSettings(tolerance=0, tolerance_growth=0)
    inversion = invert_images(model, torch.rand(batch, 3, *size_hw), SOURCE, plan, null_text, settings)
    edit_images(model, inversion, SOURCE, TARGET, plan, settings)


def measure(
    model: LatentModel, work: str, batch: int, size_hw: tuple[int, int], steps: int, warm_up_steps: int = 2
) -> dict:
    """Run one case and return a row; memory is the peak of torch on a CUDA device, otherwise empty."""
    call = {'sample': run_sample, 'edit': run_edit}[work]
    on_gpu = model.device.type == 'cuda'
    row = dict(
        kind=model.kind, work=work, size=f'{size_hw[0]}x{size_hw[1]}', dtype=model.dtype_name, batch=batch, steps=steps
    )
    try:
        call(model, batch, size_hw, warm_up_steps)
        if on_gpu:
            torch.cuda.synchronize(model.device)
            torch.cuda.reset_peak_memory_stats(model.device)
        start = time.perf_counter()
        call(model, batch, size_hw, steps)
        if on_gpu:
            torch.cuda.synchronize(model.device)
        seconds = time.perf_counter() - start
    except torch.OutOfMemoryError:
        if on_gpu:
            torch.cuda.empty_cache()
        return dict(row, seconds_per_image='out of memory', images_per_minute='', peak_gib='')
    peak = torch.cuda.max_memory_allocated(model.device) / 2**30 if on_gpu else ''
    return dict(row, seconds_per_image=seconds / batch, images_per_minute=60 * batch / seconds, peak_gib=peak)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('--kinds', nargs='+', choices=['sd', 'sdxl'], default=['sd', 'sdxl'])
    parser.add_argument('--works', nargs='+', choices=WORKS, default=list(WORKS))
    parser.add_argument('--batches', nargs='+', type=int, default=[1, 2, 4, 8])
    parser.add_argument('--dtype', choices=sorted(DTYPES), default='bf16')
    parser.add_argument('--resolution', nargs=2, type=int, default=(512, 512), metavar=('H', 'W'))
    parser.add_argument('--steps', type=int, default=50, help='of the sampler; default 50')
    parser.add_argument(
        '--edit-steps', type=int, default=10, help='of DDIM in an edit; time grows in proportion; default 10'
    )
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--out', type=Path, default=common.RESULTS, help='folder of the JSON record')
    args = parser.parse_args(argv)
    if torch.device(args.device).type != 'cuda' or not torch.cuda.is_available():
        print(
            'error: this benchmark needs a CUDA device, and torch sees none (or --device names another); full-size '
            'networks take hours for an image on a CPU. Start it where there is a GPU.',
            file=sys.stderr,
        )
        return 2
    rows = []
    for kind in args.kinds:
        model = make_model(kind, 'full', args.device, args.dtype)
        for work in args.works:
            steps = args.steps if work == 'sample' else args.edit_steps
            for batch in args.batches:
                rows.append(measure(model, work, batch, tuple(args.resolution), steps))
                print(rows[-1], flush=True)
        del model
        torch.cuda.empty_cache()
    print(common.format_table(rows))
    device = torch.cuda.get_device_properties(args.device)
    facts = dict(device=device.name, device_gib=round(device.total_memory / 2**30, 1), clock='wall time')
    print(common.write_record('diffusion', rows, facts, args.out))
    return 0


if __name__ == '__main__':
    sys.exit(main())
