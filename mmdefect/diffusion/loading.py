"""Load a pipeline in the format of diffusers, from a folder or the hub, and say what is wrong when it cannot be."""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from mmdefect.diffusion.extras import need
from mmdefect.diffusion.latent_model import LatentModel

#: Pipelines that are supported and what we call them.
KINDS = {'LDMTextToImagePipeline': 'ldm', 'StableDiffusionPipeline': 'sd', 'StableDiffusionXLPipeline': 'sdxl'}
DTYPES = {'fp32': torch.float32, 'fp16': torch.float16, 'bf16': torch.bfloat16}
OFFLOADS = ('none', 'model', 'sequential')
_WEIGHTS = ('.safetensors', '.bin')
#: Parts of pipelines that are not used here and need not be there.
_UNUSED = {'safety_checker', 'feature_extractor', 'image_encoder'}


@dataclass(frozen=True)
class ModelOptions:
    """How a pipeline is held in memory.

    Attributes:
        device: such as ``cpu``, ``cuda``, ``cuda:1``.
        dtype: ``fp32``, ``fp16`` or ``bf16``.
        offload: ``none``; ``model`` keeps one part at a time on the device; ``sequential`` one layer at a time.
        attention_slicing: compute attention in parts.
        vae_tiling: encode and decode large images in tiles, images of a batch one by one.
        revision: of a hub id.
        variant: of the weight files, such as ``fp16``.
    """

    device: str = 'cpu'
    dtype: str = 'fp32'
    offload: str = 'none'
    attention_slicing: bool = False
    vae_tiling: bool = False
    revision: str | None = None
    variant: str | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f'`dtype` must be one of {", ".join(DTYPES)}, got {self.dtype!r}.')
        if self.offload not in OFFLOADS:
            raise ValueError(f'`offload` must be one of {", ".join(OFFLOADS)}, got {self.offload!r}.')
        kind = torch.device(self.device).type
        if kind == 'cuda' and not torch.cuda.is_available():
            raise ValueError(
                f'`device` must be one that torch sees, but {self.device} was asked for and torch sees no '
                'GPU; give --device cpu.'
            )
        if kind == 'cpu' and self.offload != 'none':
            raise ValueError(f'`offload` must be none on the CPU, got {self.offload!r}: there is no device to spare.')
        if kind == 'cpu' and self.dtype == 'fp16':
            raise ValueError('`dtype` must be fp32 or bf16 on the CPU, got fp16, for which it lacks operations.')


def load_model(name: str | os.PathLike, options: ModelOptions | None = None) -> LatentModel:
    """Load a pipeline.

    Args:
        name: folder in the format of diffusers, or hub id.
        options: how it is held in memory.

    Raises:
        ValueError: if there is no such pipeline, it is of an unsupported kind, or weights are missing or do not fit.
    """
    options = options or ModelOptions()
    diffusers = need('diffusers')
    for library in (diffusers, need('transformers')):
        library.utils.logging.disable_progress_bar()  # bars of loading in between those of the work
    name = str(name)
    index = read_index(name, options.revision)
    kind = KINDS[index['_class_name']]
    if Path(name).is_dir():
        check_parts(Path(name), index)
    keywords = dict(torch_dtype=DTYPES[options.dtype], revision=options.revision, variant=options.variant)
    if kind == 'sd':
        keywords.update(safety_checker=None, requires_safety_checker=False)
    try:
        with warnings.catch_warnings():  # newer releases call it `dtype`; older ones know only this name
            warnings.filterwarnings('ignore', '`torch_dtype` is deprecated')
            pipeline = getattr(diffusers, index['_class_name']).from_pretrained(name, **keywords)
    except (OSError, ValueError, RuntimeError, TypeError, KeyError) as err:
        raise ValueError(
            f'the weights of {name} must load as {index["_class_name"]}, but they do not: '
            f'{_first_lines(err)}; download them again, or check that all are of one model.'
        ) from err
    pipeline.set_progress_bar_config(disable=True)
    _check_channels(pipeline, kind, name)
    return _place(pipeline, kind, name, options)


def read_index(name: str, revision: str | None = None) -> dict:
    """Return ``model_index.json`` of a folder or hub id.

    Raises:
        ValueError: if there is none, or it names an unsupported pipeline.
    """
    supported = ', '.join(KINDS)
    folder = Path(name)
    if folder.is_file():
        raise ValueError(
            f'`--model` must be a folder in the format of diffusers or a hub id, but {name} is a single '
            f'file; convert it with `from_single_file(...).save_pretrained(...)` of diffusers. Supported: '
            f'{supported}.'
        )
    if folder.is_dir():
        place = folder / 'model_index.json'
        if not place.is_file():
            held = ', '.join(sorted(p.name for p in folder.iterdir())[:8]) or 'nothing'
            raise ValueError(
                f'`--model` must be a folder with model_index.json, but {name} has none; it holds {held}. '
                f'Supported pipelines: {supported}.'
            )
        try:
            index = json.loads(place.read_text(encoding='utf-8'))
        except ValueError as err:
            raise ValueError(f'{place} must be JSON, but it cannot be read ({err}); download the model again.') from err
    else:
        try:
            index = need('diffusers').DiffusionPipeline.load_config(name, revision=revision)
        except (OSError, ValueError) as err:
            raise ValueError(
                f'`--model` must be an existing folder or a hub id that can be reached, but {name!r} is '
                f'neither ({_first_lines(err)}). Supported pipelines: {supported}.'
            ) from err
    found = index.get('_class_name')
    if found not in KINDS:
        raise ValueError(
            f'`--model` must be one of the pipelines {supported}, but {name} holds {found}; take another model.'
        )
    return index


def check_parts(folder: Path, index: dict) -> None:
    """Check that every part of a pipeline folder is there.

    Raises:
        ValueError: naming what is missing.
    """
    for part, (library, _) in ((k, v) for k, v in index.items() if isinstance(v, list)):
        if part in _UNUSED or library is None:
            continue
        place = folder / part
        if not place.is_dir():
            raise ValueError(
                f'{folder} must hold {part}/, as its model_index.json says, but it does not; download the whole model.'
            )
        is_network = (place / 'config.json').is_file() and 'tokenizer' not in part
        if is_network and not any(p.suffix in _WEIGHTS for p in place.iterdir()):
            held = ', '.join(sorted(p.name for p in place.iterdir()))
            raise ValueError(
                f'{place} must hold weights ({" or ".join(_WEIGHTS)}), but it holds {held} only; download '
                'the whole model.'
            )


def _check_channels(pipeline, kind: str, name: str) -> None:
    vae = pipeline.vqvae if kind == 'ldm' else pipeline.vae
    channels, latent = pipeline.unet.config.in_channels, vae.config.latent_channels
    if channels != latent:
        raise ValueError(
            f'the network of {name} must take {latent} channels, the latents alone, but it takes '
            f'{channels}; that is a model for inpainting or depth. Take a plain text-to-image model.'
        )
    prediction = pipeline.scheduler.config.get('prediction_type', 'epsilon')
    if prediction not in ('epsilon', 'v_prediction'):
        raise ValueError(
            f'the network of {name} must predict noise or velocity (epsilon, v_prediction), but its '
            f'scheduler says {prediction}; take another model.'
        )


def _place(pipeline, kind: str, name: str, options: ModelOptions) -> LatentModel:
    vae = pipeline.vqvae if kind == 'ldm' else pipeline.vae
    if options.dtype == 'fp16' and vae.config.get('force_upcast', False):
        vae.to(torch.float32)  # its activations exceed the range of fp16
    if options.attention_slicing:
        pipeline.enable_attention_slicing()
    if options.vae_tiling:
        vae.enable_slicing()
        vae.enable_tiling()
    model = LatentModel(pipeline, kind, name, options.device, DTYPES[options.dtype])
    if options.offload == 'model':
        pipeline.enable_model_cpu_offload(device=options.device)
    elif options.offload == 'sequential':
        pipeline.enable_sequential_cpu_offload(device=options.device)
    else:
        pipeline.to(options.device)
    return model


def _first_lines(err: Exception) -> str:
    return ' '.join(str(err).split())[:300]
