"""Tiny pipelines with random weights, written to disk in the format of diffusers."""

from __future__ import annotations

import json
import string
from pathlib import Path

import torch

WORDS = ('a an the photo picture image close up view of on with part surface metal defect defects crack scratch rust '
         'peeling corrosion blistering dent showing small large one two three').split()


def save_tiny(kind: str, folder: Path) -> Path:
    """Write a pipeline of this kind and return its folder."""
    torch.manual_seed(0)
    pipeline = {'ldm': _ldm, 'sd': _sd, 'sdxl': _sdxl}[kind](folder.parent / f'{kind}_tokenizer')
    pipeline.save_pretrained(folder)
    return folder


def clip_tokenizer(folder: Path, pad_token: str = '<|endoftext|>'):
    """Every word of WORDS is one token, anything else is spelt."""
    from transformers import CLIPTokenizer
    folder.mkdir(parents=True, exist_ok=True)
    letters = string.ascii_lowercase
    vocabulary = [*letters, *(f'{c}</w>' for c in letters)]
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
    (folder / 'vocab.json').write_text(json.dumps({w: i for i, w in enumerate(vocabulary)}))
    (folder / 'merges.txt').write_text('#version: 0.2\n' + '\n'.join(' '.join(m) for m in merges))
    return CLIPTokenizer(str(folder / 'vocab.json'), str(folder / 'merges.txt'), model_max_length=77,
                         pad_token=pad_token)


def _clip_config(tokenizer, width: int):
    from transformers import CLIPTextConfig
    return CLIPTextConfig(vocab_size=len(tokenizer), hidden_size=width, intermediate_size=2 * width,
                          num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=77,
                          projection_dim=width, bos_token_id=0, eos_token_id=2)


def _vae(scaling: float):
    from diffusers import AutoencoderKL
    return AutoencoderKL(in_channels=3, out_channels=3, latent_channels=4, block_out_channels=(8, 16),
                         down_block_types=('DownEncoderBlock2D', ) * 2, up_block_types=('UpDecoderBlock2D', ) * 2,
                         norm_num_groups=4, sample_size=32, scaling_factor=scaling).eval()


def _unet(width: int, **options):
    from diffusers import UNet2DConditionModel
    return UNet2DConditionModel(sample_size=16, in_channels=4, out_channels=4, layers_per_block=1,
                                block_out_channels=(16, 32), norm_num_groups=4, cross_attention_dim=width,
                                down_block_types=('CrossAttnDownBlock2D', ) * 2,
                                up_block_types=('CrossAttnUpBlock2D', ) * 2,
                                **{**dict(attention_head_dim=4), **options}).eval()


def _ddim():
    from diffusers import DDIMScheduler
    return DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule='scaled_linear', clip_sample=False,
                         set_alpha_to_one=False, steps_offset=1)


def _sd(tokenizer_folder: Path):
    from diffusers import PNDMScheduler, StableDiffusionPipeline
    from transformers import CLIPTextModel
    tokenizer = clip_tokenizer(tokenizer_folder)
    scheduler = PNDMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule='scaled_linear', skip_prk_steps=True,
                              set_alpha_to_one=False, steps_offset=1)
    return StableDiffusionPipeline(vae=_vae(0.18215), text_encoder=CLIPTextModel(_clip_config(tokenizer, 32)),
                                   tokenizer=tokenizer, unet=_unet(32), scheduler=scheduler, safety_checker=None,
                                   feature_extractor=None, requires_safety_checker=False)


def _sdxl(tokenizer_folder: Path):
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline
    from transformers import CLIPTextModel, CLIPTextModelWithProjection
    tokenizer, second = clip_tokenizer(tokenizer_folder), clip_tokenizer(tokenizer_folder.with_name('second'), '!')
    scheduler = EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule='scaled_linear',
                                       steps_offset=1, timestep_spacing='leading')
    unet = _unet(32 + 16, transformer_layers_per_block=(1, 2), attention_head_dim=(2, 4), use_linear_projection=True,
                 addition_embed_type='text_time', addition_time_embed_dim=8,
                 projection_class_embeddings_input_dim=6 * 8 + 16)
    return StableDiffusionXLPipeline(vae=_vae(0.13025), text_encoder=CLIPTextModel(_clip_config(tokenizer, 32)),
                                     text_encoder_2=CLIPTextModelWithProjection(_clip_config(second, 16)),
                                     tokenizer=tokenizer, tokenizer_2=second, unet=unet, scheduler=scheduler)


def _ldm(tokenizer_folder: Path):
    from diffusers import LDMTextToImagePipeline
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
    from transformers import BertTokenizer
    tokenizer_folder.mkdir(parents=True, exist_ok=True)
    letters = string.ascii_lowercase
    vocabulary = ['[PAD]', '[UNK]', '[CLS]', '[SEP]', '[MASK]', *WORDS, *(c for c in letters if c not in WORDS),
                  *(f'##{c}' for c in letters)]
    (tokenizer_folder / 'vocab.txt').write_text('\n'.join(vocabulary))
    bert = LDMBertModel(LDMBertConfig(vocab_size=len(vocabulary), encoder_layers=2, encoder_ffn_dim=64,
                                      encoder_attention_heads=4, d_model=32, head_dim=8, pad_token_id=0)).eval()
    return LDMTextToImagePipeline(vqvae=_vae(0.18215), bert=bert,
                                  tokenizer=BertTokenizer(str(tokenizer_folder / 'vocab.txt'), model_max_length=77),
                                  unet=_unet(32), scheduler=_ddim())
