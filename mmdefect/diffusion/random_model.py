"""Pipelines with random weights: tiny ones to try and test every step without a download, full-size ones to measure.

What they generate is noise. Their tokenizers know some words as single tokens and spell the others.
"""

import json
import os
import string
import tempfile
from pathlib import Path

import torch

from mmdefect.extras import require

KINDS = ('ldm', 'sd', 'sdxl')
SIZES = ('tiny', 'full')
#: Words that are one token in every tokenizer made here.
_VOCABULARY = (
    'a an the photo picture image close up view of on with part surface metal defect defects crack scratch rust '
    'peeling corrosion blistering dent showing small large one two three'
)
WORDS = _VOCABULARY.split()
_LETTERS = string.ascii_lowercase

NOISE = dict(beta_start=0.00085, beta_end=0.012, beta_schedule='scaled_linear', steps_offset=1)
_CROSS = ('CrossAttnDownBlock2D', 'CrossAttnUpBlock2D')
_PLAIN = ('DownBlock2D', 'UpBlock2D')
#: Networks by kind; the full ones are LDM text-to-image (1.4 B with its text encoder), Stable Diffusion 1.5, SDXL 1.0.
_UNETS = {
    ('ldm', 'tiny'): dict(channels=(16, 32), blocks=(1, 1), heads=4, text=32),
    ('sd', 'tiny'): dict(channels=(16, 32), blocks=(1, 1), heads=4, text=32),
    ('sdxl', 'tiny'): dict(channels=(16, 32), blocks=(1, 1), heads=(2, 4), text=48, layers=(1, 2), pooled=16, times=8),
    ('ldm', 'full'): dict(channels=(320, 640, 1280, 1280), blocks=(1, 1, 1, 0), heads=8, text=1280),
    ('sd', 'full'): dict(channels=(320, 640, 1280, 1280), blocks=(1, 1, 1, 0), heads=8, text=768),
    ('sdxl', 'full'): dict(
        channels=(320, 640, 1280),
        blocks=(0, 1, 1),
        heads=(5, 10, 20),
        text=2048,
        layers=(1, 2, 10),
        pooled=1280,
        times=256,
    ),
}
#: Text encoders: width, layers, heads, projection.
_TEXTS = {'tiny': ((32, 2, 4, 32), (16, 2, 4, 16)), 'full': ((768, 12, 12, 768), (1280, 32, 20, 1280))}
#: Layers of a block and groups of its normalisation, of autoencoder and network.
_BLOCKS = {'tiny': dict(layers_per_block=1, norm_num_groups=4), 'full': dict(layers_per_block=2, norm_num_groups=32)}


def build_pipeline(kind: str, size: str = 'tiny', seed: int = 0):
    """Return a pipeline of diffusers with random weights; the state of torch's own generator is left as it was.

    ``size``: ``tiny`` computes images of 32 pixels at once on a CPU; ``full`` has the shapes of the published models.
    """
    if kind not in KINDS or size not in SIZES:
        raise ValueError(
            f'`kind` must be one of {", ".join(KINDS)} and `size` one of {", ".join(SIZES)}, got {kind!r} and {size!r}.'
        )
    require('generation', 'diffusers', 'transformers', who='a random model')
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return {'ldm': _build_ldm, 'sd': _build_sd, 'sdxl': _build_sdxl}[kind](size)


def save_pipeline(folder: str | os.PathLike, kind: str, seed: int = 0) -> Path:
    """Write a tiny pipeline in the format of diffusers and return its folder, which must not exist."""
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f'{folder} must not exist yet, but it does; name another folder.')
    build_pipeline(kind, 'tiny', seed).save_pretrained(folder)
    return folder


def _build_ldm(size: str):
    from diffusers import DDIMScheduler, LDMTextToImagePipeline
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
    from transformers import BertTokenizer

    marks = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]']
    vocabulary = [*marks, *WORDS, *(c for c in _LETTERS if c not in WORDS), *(f'##{c}' for c in _LETTERS)]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / 'vocab.txt').write_text('\n'.join(vocabulary), encoding='utf-8')
        tokenizer = BertTokenizer(str(Path(folder) / 'vocab.txt'), model_max_length=77)
    options = dict(vocab_size=30522)
    if size == 'tiny':
        options = dict(encoder_layers=2, encoder_ffn_dim=64, encoder_attention_heads=4, d_model=32, head_dim=8)
        options['vocab_size'] = len(vocabulary)
    bert = LDMBertModel(LDMBertConfig(pad_token_id=0, **options)).eval()
    with torch.device('cpu'):  # noise schedules are small tables, which some schedulers copy
        scheduler = DDIMScheduler(clip_sample=False, set_alpha_to_one=False, **NOISE)
    vae, unet = _build_vae(size, 0.18215), _build_unet('ldm', size)
    return LDMTextToImagePipeline(vqvae=vae, bert=bert, tokenizer=tokenizer, unet=unet, scheduler=scheduler)


def _build_sd(size: str):
    from diffusers import PNDMScheduler, StableDiffusionPipeline
    from transformers import CLIPTextModel

    tokenizer = _build_tokenizer('<|endoftext|>')
    with torch.device('cpu'):
        scheduler = PNDMScheduler(skip_prk_steps=True, set_alpha_to_one=False, **NOISE)
    parts = dict(vae=_build_vae(size, 0.18215), tokenizer=tokenizer, scheduler=scheduler)
    parts['text_encoder'] = CLIPTextModel(_text_config(tokenizer, size, 0)).eval()
    unused = dict(safety_checker=None, feature_extractor=None, requires_safety_checker=False)
    return StableDiffusionPipeline(unet=_build_unet('sd', size), **parts, **unused)


def _build_sdxl(size: str):
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    tokenizer, second = _build_tokenizer('<|endoftext|>'), _build_tokenizer('!')
    parts = dict(tokenizer=tokenizer, tokenizer_2=second)
    parts['text_encoder'] = CLIPTextModel(_text_config(tokenizer, size, 0)).eval()
    parts['text_encoder_2'] = CLIPTextModelWithProjection(_text_config(second, size, 1)).eval()
    with torch.device('cpu'):
        scheduler = EulerDiscreteScheduler(timestep_spacing='leading', **NOISE)
    vae, unet = _build_vae(size, 0.13025), _build_unet('sdxl', size)
    return StableDiffusionXLPipeline(vae=vae, unet=unet, scheduler=scheduler, **parts)


def _build_tokenizer(pad_token: str):
    from transformers import CLIPTokenizer

    vocabulary = [*_LETTERS, *(f'{c}</w>' for c in _LETTERS)]
    merges = []
    for word in (w for w in WORDS if len(w) > 1):
        parts = [*word[:-1], f'{word[-1]}</w>']
        while len(parts) > 1:
            if (parts[0], parts[1]) not in merges:
                merges.append((parts[0], parts[1]))
            parts = [parts[0] + parts[1], *parts[2:]]
            if parts[0] not in vocabulary:
                vocabulary.append(parts[0])
    vocabulary += ['!', '<|startoftext|>', '<|endoftext|>']
    with tempfile.TemporaryDirectory() as folder:
        vocab_file, merges_file = Path(folder) / 'vocab.json', Path(folder) / 'merges.txt'
        vocab_file.write_text(json.dumps({w: i for i, w in enumerate(vocabulary)}), encoding='utf-8')
        merges_file.write_text('#version: 0.2\n' + '\n'.join(' '.join(m) for m in merges), encoding='utf-8')
        return CLIPTokenizer(str(vocab_file), str(merges_file), model_max_length=77, pad_token=pad_token)


def _text_config(tokenizer, size: str, number: int):
    from transformers import CLIPTextConfig

    width, layers, heads, projection = _TEXTS[size][number]
    return CLIPTextConfig(
        vocab_size=len(tokenizer) if size == 'tiny' else 49408,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=77,
        projection_dim=projection,
        bos_token_id=0,
        eos_token_id=2,
        hidden_act='gelu' if number else 'quick_gelu',
    )


def _build_vae(size: str, scaling: float):
    from diffusers import AutoencoderKL

    channels = (8, 16) if size == 'tiny' else (128, 256, 512, 512)
    return AutoencoderKL(
        latent_channels=4,
        block_out_channels=channels,
        down_block_types=('DownEncoderBlock2D',) * len(channels),
        up_block_types=('UpDecoderBlock2D',) * len(channels),
        scaling_factor=scaling,
        sample_size=32 if size == 'tiny' else 512,
        **_BLOCKS[size],
    ).eval()


def _build_unet(kind: str, size: str):
    from diffusers import UNet2DConditionModel

    shape, options = _UNETS[kind, size], {}
    if 'layers' in shape:
        options = dict(
            transformer_layers_per_block=shape['layers'],
            use_linear_projection=True,
            addition_embed_type='text_time',
            addition_time_embed_dim=shape['times'],
            projection_class_embeddings_input_dim=6 * shape['times'] + shape['pooled'],
        )
    return UNet2DConditionModel(
        sample_size=16 if size == 'tiny' else 64,
        block_out_channels=shape['channels'],
        cross_attention_dim=shape['text'],
        down_block_types=tuple((_CROSS if b else _PLAIN)[0] for b in shape['blocks']),
        up_block_types=tuple((_CROSS if b else _PLAIN)[1] for b in reversed(shape['blocks'])),
        attention_head_dim=shape['heads'],
        **_BLOCKS[size],
        **options,
    ).eval()
