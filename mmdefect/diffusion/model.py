"""Latent diffusion behind one interface: text in, latents in and out, noise predicted.

Pipelines come in the format of diffusers, from a folder or the hub; three kinds are supported (:data:`KINDS`).
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mmdefect.diffusion.tokens import InjectedEmbedding, TokenBank
from mmdefect.extras import require

#: Longest text of all supported encoders, with its two marks.
MAX_TOKENS = 77
#: Pipelines that are supported and what we call them.
KINDS = {'LDMTextToImagePipeline': 'ldm', 'StableDiffusionPipeline': 'sd', 'StableDiffusionXLPipeline': 'sdxl'}
DTYPES = {'fp32': torch.float32, 'fp16': torch.float16, 'bf16': torch.bfloat16}
OFFLOADS = ('none', 'model', 'sequential')
#: Schedulers of diffusers by name, with the options in which they differ from the one that comes with a model.
SCHEDULERS = {
    'ddim': ('DDIMScheduler', dict(clip_sample=False, set_alpha_to_one=False)),
    'dpm++': ('DPMSolverMultistepScheduler', dict(algorithm_type='dpmsolver++')),
    'euler': ('EulerDiscreteScheduler', {}),
    'euler-a': ('EulerAncestralDiscreteScheduler', {}),
    'heun': ('HeunDiscreteScheduler', {}),
    'lms': ('LMSDiscreteScheduler', {}),
    'pndm': ('PNDMScheduler', dict(skip_prk_steps=True)),
    'unipc': ('UniPCMultistepScheduler', {}),
}
_WEIGHTS = ('.safetensors', '.bin')
#: Parts of pipelines that are not used here and may be missing.
_UNUSED = {'safety_checker', 'feature_extractor', 'image_encoder'}


@dataclass(frozen=True)
class TextCondition:
    """Encoded text."""

    tokens: Tensor  # `(B, L, D)` float
    pooled: Tensor | None = None  # `(B, P)` float for SDXL, otherwise `None`

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: slice | Tensor | list[int]) -> TextCondition:
        return TextCondition(self.tokens[index], None if self.pooled is None else self.pooled[index])

    @staticmethod
    def cat(parts: Sequence[TextCondition]) -> TextCondition:
        """Return the texts of all parts, one after the other."""
        pooled = None if parts[0].pooled is None else torch.cat([p.pooled for p in parts])
        return TextCondition(torch.cat([p.tokens for p in parts]), pooled)


class LatentModel:
    """A loaded pipeline of diffusers, taken apart; its networks are frozen, latents and losses are float32.

    Attributes:
        kind: ``ldm``, ``sd`` or ``sdxl``.
        unet: predicts the noise.
        vae: between images and latents.
        tokenizers: one for each text encoder.
        text_encoders: one, or two for SDXL.
        factor: pixels of an image per latent pixel, along one side.
    """

    def __init__(self, pipeline, kind: str, name: str, device: torch.device | str, dtype: torch.dtype) -> None:
        self.pipeline, self.kind, self.name = pipeline, kind, name
        self.device, self.dtype = torch.device(device), dtype
        self.unet: nn.Module = pipeline.unet
        self.vae: nn.Module = _vae_of(pipeline)
        self.tokenizers = [pipeline.tokenizer] + ([pipeline.tokenizer_2] if kind == 'sdxl' else [])
        self.text_encoders: list[nn.Module] = [pipeline.bert] if kind == 'ldm' else [pipeline.text_encoder]
        if kind == 'sdxl':
            self.text_encoders.append(pipeline.text_encoder_2)
        self.factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        for encoder in self.text_encoders:
            encoder.set_input_embeddings(InjectedEmbedding(encoder.get_input_embeddings()))
        for module in (self.unet, self.vae, *self.text_encoders):
            module.requires_grad_(False)
            module.eval()

    @property
    def embeddings(self) -> list[InjectedEmbedding]:
        """The token embeddings of the text encoders."""
        return [encoder.get_input_embeddings() for encoder in self.text_encoders]

    @property
    def dtype_name(self) -> str:
        """Number format as the command line names it."""
        return next(name for name, dtype in DTYPES.items() if dtype == self.dtype)

    @property
    def prediction_type(self) -> str:
        """What the network predicts: ``epsilon`` or ``v_prediction``."""
        return self.pipeline.scheduler.config.get('prediction_type', 'epsilon')

    def alphas_cumprod(self) -> Tensor:
        """Return the signal power at every training step, ``(T,)`` float32 on the CPU."""
        return self.pipeline.scheduler.alphas_cumprod.float().cpu()

    def latent_shape(self, size_hw: tuple[int, int]) -> tuple[int, int, int]:
        """Return channels, height and width of the latents of an image of this size."""
        return self.unet.config.in_channels, size_hw[0] // self.factor, size_hw[1] // self.factor

    def check_size(self, size_hw: tuple[int, int]) -> None:
        """Raise ``ValueError``, naming the nearest size that fits, unless a size divides into latents."""
        step = self.factor * 2 ** (len(self.unet.config.block_out_channels) - 1)
        if any(side % step or side < step for side in size_hw):
            near = tuple(max(step, round(side / step) * step) for side in size_hw)
            raise ValueError(
                f'the size that is computed must be a multiple of {step} for {self.name}, got '
                f'{size_hw[0]} {size_hw[1]}; give --resolution {near[0]} {near[1]}.'
            )

    def tokenize(self, texts: Sequence[str], bank: TokenBank | None = None) -> list[tuple[Tensor, Tensor | None]]:
        """Return, for each encoder, ids ``(B, 77)`` int64 and the places of learned tokens, see :class:`TokenBank`."""
        if bank is not None:
            return [bank.tokenize(tokenizer, texts, MAX_TOKENS) for tokenizer in self.tokenizers]
        options = dict(padding='max_length', max_length=MAX_TOKENS, truncation=True, return_tensors='pt')
        return [(tokenizer(list(texts), **options).input_ids, None) for tokenizer in self.tokenizers]

    def encode_text(self, texts: Sequence[str], bank: TokenBank | None = None) -> TextCondition:
        """Encode texts; learned tokens come from ``bank``. A text too long for its token raises ``ValueError``."""
        tokens, pooled = [], None
        tokenized = self.tokenize(texts, bank)
        for index, (encoder, (ids, places)) in enumerate(zip(self.text_encoders, tokenized, strict=True)):
            ids = ids.to(self.device)
            with encoder.get_input_embeddings().inject(places, None if bank is None else bank.vectors[index]):
                if self.kind == 'sdxl':
                    output = encoder(ids, output_hidden_states=True)
                    tokens.append(output.hidden_states[-2])
                    pooled = output[0] if index == 1 else pooled
                else:
                    tokens.append(encoder(ids)[0])
        return TextCondition(torch.cat(tokens, -1), pooled)

    def encode_unconditional(self, texts: Sequence[str]) -> TextCondition:
        """Encode what guidance leads away from; an empty text is zeros where the pipeline was trained so (SDXL)."""
        condition = self.encode_text(texts)
        if self.kind != 'sdxl' or not self.pipeline.config.get('force_zeros_for_empty_prompt', False):
            return condition
        keep = torch.tensor([bool(text) for text in texts], device=condition.tokens.device)
        return TextCondition(condition.tokens * keep[:, None, None], condition.pooled * keep[:, None])

    @torch.no_grad()
    def encode_guided(self, texts: Sequence[str], negative: str = '', bank: TokenBank | None = None) -> TextCondition:
        """Encode ``2 * B`` texts for guidance: what it leads away from, then what it leads to."""
        return TextCondition.cat([self.encode_unconditional([negative] * len(texts)), self.encode_text(texts, bank)])

    def encode_images(self, images: Tensor) -> Tensor:
        """Return latents, ``(B, 4, H / f, W / f)`` float32, of images, ``(B, 3, H, W)`` float in [0, 1], RGB.

        The mode of the encoder is taken; nothing is sampled.
        """
        output = self.vae.encode((images * 2 - 1).to(self.device, self._vae_dtype()))
        latents = output.latent_dist.mode() if hasattr(output, 'latent_dist') else output.latents
        return (latents.float() - self._shift()) * self.vae.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Return images, ``(B, 3, H, W)`` float32 in [0, 1], RGB."""
        latents = latents / self.vae.config.scaling_factor + self._shift()
        return (self.vae.decode(latents.to(self._vae_dtype())).sample.float() / 2 + 0.5).clamp(0, 1)

    def predict(self, latents: Tensor, step: Tensor | int, condition: TextCondition) -> Tensor:
        """Return the output of the network, ``(B, 4, h, w)`` float32, for noisy latents of that shape.

        ``step`` is the training step, a number or ``(B,)``; ``condition`` has one text for each latent.
        """
        added = None
        if self.kind == 'sdxl':
            height, width = (side * self.factor for side in latents.shape[-2:])
            sizes = torch.tensor([[height, width, 0, 0, height, width]], dtype=self.dtype, device=latents.device)
            added = dict(text_embeds=condition.pooled.to(self.dtype), time_ids=sizes.expand(len(latents), -1))
        tokens = condition.tokens.to(self.dtype)
        output = self.unet(latents.to(self.dtype), step, encoder_hidden_states=tokens, added_cond_kwargs=added)
        return output.sample.float()

    def make_scheduler(self, name: str):
        """Return a scheduler of diffusers, a key of :data:`SCHEDULERS`, with the noise schedule of this model."""
        import diffusers

        if name not in SCHEDULERS:
            raise ValueError(f'`scheduler` must be one of {", ".join(SCHEDULERS)}, got {name!r}.')
        cls, options = SCHEDULERS[name]
        return getattr(diffusers, cls).from_config(self.pipeline.scheduler.config, **options)

    def _vae_dtype(self) -> torch.dtype:
        return next(self.vae.parameters()).dtype

    def _shift(self) -> float:
        return self.vae.config.get('shift_factor', None) or 0.0


@dataclass(frozen=True)
class ModelOptions:
    """How a pipeline is held in memory."""

    device: str = 'cpu'  # such as `cpu`, `cuda`, `cuda:1`
    dtype: str = 'fp32'  # `fp32`, `fp16` or `bf16`
    offload: str = 'none'  # `none`; `model` keeps one part at a time on the device; `sequential` one layer at a time
    attention_slicing: bool = False  # compute attention in parts
    vae_tiling: bool = False  # encode and decode large images in tiles, images of a batch one by one
    revision: str | None = None  # of a hub id
    variant: str | None = None  # of the weight files, such as `fp16`

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f'`dtype` must be one of {", ".join(DTYPES)}, got {self.dtype!r}.')
        if self.offload not in OFFLOADS:
            raise ValueError(f'`offload` must be one of {", ".join(OFFLOADS)}, got {self.offload!r}.')
        kind = torch.device(self.device).type
        if kind == 'cuda' and not torch.cuda.is_available():
            raise ValueError(
                f'`device` must be one that torch sees, but it sees no GPU for {self.device}; give --device cpu.'
            )
        if kind == 'cpu' and self.offload != 'none':
            raise ValueError(f'`offload` must be none on the CPU, got {self.offload!r}: there is no device to spare.')
        if kind == 'cpu' and self.dtype == 'fp16':
            raise ValueError('`dtype` must be fp32 or bf16 on the CPU, got fp16, for which it lacks operations.')


def load_model(name: str | os.PathLike, options: ModelOptions | None = None) -> LatentModel:
    """Load a pipeline from a folder in the format of diffusers, or a hub id.

    Raises:
        ValueError: if there is no such pipeline, it is of an unsupported kind, or weights are missing or do not fit.
    """
    require('generation', 'diffusers', 'transformers', 'safetensors', who='a diffusion model')
    import diffusers
    import transformers

    options = options or ModelOptions()
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()  # bars of loading in between those of the work
    name = str(name)
    index = _read_index(name, options.revision)
    pipeline_class = index['_class_name']
    kind = KINDS[pipeline_class]
    if Path(name).is_dir():
        _check_parts(Path(name), index)
    keywords = dict(torch_dtype=DTYPES[options.dtype], revision=options.revision, variant=options.variant)
    if kind == 'sd':
        keywords.update(safety_checker=None, requires_safety_checker=False)
    try:
        with warnings.catch_warnings():  # newer releases call it `dtype`; older ones know only this name
            warnings.filterwarnings('ignore', '`torch_dtype` is deprecated')
            pipeline = getattr(diffusers, pipeline_class).from_pretrained(name, **keywords)
    except (OSError, ValueError, RuntimeError, TypeError, KeyError) as err:
        raise ValueError(
            f'the weights of {name} must load as {pipeline_class}, but they do not: {_first_words(err)}; '
            'download them again, or check that all are of one model.'
        ) from err
    pipeline.set_progress_bar_config(disable=True)
    _check_network(pipeline, name)
    vae = _vae_of(pipeline)
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


def _read_index(name: str, revision: str | None = None) -> dict:
    """Return ``model_index.json`` of a folder or hub id, which must name a supported pipeline."""
    import diffusers

    supported = ', '.join(KINDS)
    folder = Path(name)
    if folder.is_file():
        raise ValueError(
            f'`--model` must be a folder in the format of diffusers or a hub id, but {name} is a single file; convert '
            'it: tools/generate.py convert-ldm for LDM text-to-image, `from_single_file` of diffusers for Stable '
            f'Diffusion and SDXL. Supported pipelines: {supported}.'
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
            index = diffusers.DiffusionPipeline.load_config(name, revision=revision)
        except (OSError, ValueError) as err:
            raise ValueError(
                f'`--model` must be an existing folder or a hub id that can be reached, but {name!r} is '
                f'neither ({_first_words(err)}). Supported pipelines: {supported}.'
            ) from err
    found = index.get('_class_name')
    if found not in KINDS:
        raise ValueError(f'`--model` must be one of the pipelines {supported}, but {name} holds {found}; take another.')
    return index


def _check_parts(folder: Path, index: dict) -> None:
    """Raise ``ValueError`` naming what is missing in a pipeline folder."""
    for part, entry in index.items():
        if not isinstance(entry, list) or entry[0] is None or part in _UNUSED:
            continue
        place = folder / part
        if not place.is_dir():
            raise ValueError(f'{folder} must hold {part}/, as its index says, but does not; download the whole model.')
        is_network = (place / 'config.json').is_file() and 'tokenizer' not in part
        if is_network and not any(p.suffix in _WEIGHTS for p in place.iterdir()):
            held = ', '.join(sorted(p.name for p in place.iterdir()))
            raise ValueError(
                f'{place} must hold weights ({" or ".join(_WEIGHTS)}), but it holds {held} only; download all of it.'
            )


def _check_network(pipeline, name: str) -> None:
    """Raise ``ValueError`` unless the network takes latents alone and predicts noise or velocity."""
    channels, latent = pipeline.unet.config.in_channels, _vae_of(pipeline).config.latent_channels
    if channels != latent:
        raise ValueError(
            f'the network of {name} must take {latent} channels, the latents alone, but it takes {channels}; that is '
            'a model for inpainting or depth. Take a plain text-to-image model.'
        )
    prediction = pipeline.scheduler.config.get('prediction_type', 'epsilon')
    if prediction not in ('epsilon', 'v_prediction'):
        raise ValueError(
            f'the network of {name} must predict epsilon or v_prediction, but its scheduler says {prediction}.'
        )


def _vae_of(pipeline) -> nn.Module:
    return pipeline.vqvae if hasattr(pipeline, 'vqvae') else pipeline.vae


def _first_words(err: Exception) -> str:
    return ' '.join(str(err).split())[:300]


class OutOfMemory(RuntimeError):
    """Memory ran out; the message says what to change."""


@contextmanager
def explain_memory(batch_size: int, model: LatentModel, what: str) -> Iterator[None]:
    """Turn an out-of-memory error of the device or of the machine into one that names the remedies that are left."""
    try:
        yield
    except (RuntimeError, MemoryError) as err:
        # the allocator of the CPU raises a plain RuntimeError
        on_cpu = 'DefaultCPUAllocator' in str(err) or "can't allocate memory" in str(err)
        if not on_cpu and not isinstance(err, (torch.OutOfMemoryError, MemoryError)):
            raise
        advice = [f'--batch-size {batch_size // 2} (now {batch_size})'] if batch_size > 1 else []
        advice += ['--dtype bf16 (now fp32)'] if model.dtype == torch.float32 else []
        advice += ['--attention-slicing', '--offload model', 'a smaller --resolution']
        raise OutOfMemory(
            f'{what} must fit into memory, but it did not; try {", ".join(advice)}. What is finished is kept: '
            'the same command goes on from there.'
        ) from err
