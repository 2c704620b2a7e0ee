"""Arguments that every command with a model has."""

from __future__ import annotations

import argparse


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--model`` and how it is held in memory."""
    group = parser.add_argument_group('model')
    group.add_argument(
        '--model',
        required=True,
        help='folder in the format of diffusers, or hub id: LDM text-to-image, Stable Diffusion, SDXL',
    )
    group.add_argument('--revision', help='of a hub id')
    group.add_argument('--variant', help='of the weight files, such as fp16')
    group.add_argument('--device', help='default: the GPU of this process, or the CPU where there is none')
    group.add_argument('--dtype', choices=['fp32', 'fp16', 'bf16'], default='fp32')
    group.add_argument(
        '--offload',
        choices=['none', 'model', 'sequential'],
        default='none',
        help='keep on the device only the part (or layer) that computes',
    )
    group.add_argument('--attention-slicing', action='store_true', help='less memory, slower')
    group.add_argument('--vae-tiling', action='store_true', help='less memory for large images')


def read_model_options(args: argparse.Namespace, device: str):
    """Return the ``ModelOptions`` of parsed arguments; ``device`` is where this process computes."""
    from mmdefect.diffusion.loading import ModelOptions

    return ModelOptions(
        args.device or device,
        args.dtype,
        args.offload,
        args.attention_slicing,
        args.vae_tiling,
        args.revision,
        args.variant,
    )
