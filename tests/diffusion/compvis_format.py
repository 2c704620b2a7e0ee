"""A tiny LDM text-to-image pipeline and its weights as CompVis would have saved them.

The names are written by walking the networks of diffusers block by block, with counters of their own; the converter
under test works on the text of the keys instead.
"""

from __future__ import annotations

import sys
import types

import numpy as np
import torch
from torch import nn

from mmdefect.diffusion.random_model import build_pipeline

#: What the format has fixed: 8 heads and groups of 32, so nothing is smaller than 32 channels.
HEADS, GROUPS = 8, 32


def build_tiny():
    """Return a pipeline with random weights: three levels, the last without attention, two blocks each."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel

    pipeline = build_pipeline('ldm')  # for its tokenizer and its noise schedule
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        unet = UNet2DConditionModel(
            sample_size=32,
            block_out_channels=(32, 64, 64),
            down_block_types=('CrossAttnDownBlock2D', 'CrossAttnDownBlock2D', 'DownBlock2D'),
            up_block_types=('UpBlock2D', 'CrossAttnUpBlock2D', 'CrossAttnUpBlock2D'),
            layers_per_block=2,
            cross_attention_dim=40,
            attention_head_dim=HEADS,
            norm_num_groups=GROUPS,
        )
        vae = AutoencoderKL(
            block_out_channels=(32, 64),
            down_block_types=('DownEncoderBlock2D',) * 2,
            up_block_types=('UpDecoderBlock2D',) * 2,
            layers_per_block=2,
            latent_channels=4,
            norm_num_groups=GROUPS,
            scaling_factor=0.18215,
        )
        shape = dict(encoder_layers=3, encoder_ffn_dim=80, encoder_attention_heads=HEADS, d_model=40, head_dim=4)
        bert = LDMBertModel(LDMBertConfig(pad_token_id=0, vocab_size=len(pipeline.tokenizer), **shape))
        for network in (unet, vae, bert):
            for weights in network.parameters():  # norms of ones and biases of zeros would hide an exchange
                nn.init.normal_(weights, std=0.05 if weights.ndim > 1 else 0.3)
    for name, network in dict(unet=unet, vqvae=vae, bert=bert).items():
        setattr(pipeline, name, network.eval())
    return pipeline


def compvis_state(pipeline) -> dict[str, torch.Tensor]:
    """Return all weights under the names of CompVis."""
    state = {}

    def put(name, module):
        for key, value in module.state_dict().items():
            state[f'{name}.{key}'] = value

    def put_all(name, **modules):
        for key, module in modules.items():
            if module is not None:
                put(f'{name}.{key}', module)

    def put_block(name, block):
        put(f'{name}.in_layers.0', block.norm1)
        put(f'{name}.in_layers.2', block.conv1)
        put(f'{name}.emb_layers.1', block.time_emb_proj)
        put(f'{name}.out_layers.0', block.norm2)
        put(f'{name}.out_layers.3', block.conv2)
        if block.conv_shortcut is not None:
            put(f'{name}.skip_connection', block.conv_shortcut)

    unet, root = pipeline.unet, 'model.diffusion_model'
    put(f'{root}.time_embed.0', unet.time_embedding.linear_1)
    put(f'{root}.time_embed.2', unet.time_embedding.linear_2)
    put(f'{root}.input_blocks.0.0', unet.conv_in)
    number = 1
    for level in unet.down_blocks:
        for index, block in enumerate(level.resnets):
            put_block(f'{root}.input_blocks.{number}.0', block)
            if hasattr(level, 'attentions'):
                put(f'{root}.input_blocks.{number}.1', level.attentions[index])
            number += 1
        if level.downsamplers:
            put(f'{root}.input_blocks.{number}.0.op', level.downsamplers[0].conv)
            number += 1
    put_block(f'{root}.middle_block.0', unet.mid_block.resnets[0])
    put(f'{root}.middle_block.1', unet.mid_block.attentions[0])
    put_block(f'{root}.middle_block.2', unet.mid_block.resnets[1])
    number = 0
    for level in unet.up_blocks:
        for index, block in enumerate(level.resnets):
            put_block(f'{root}.output_blocks.{number}.0', block)
            place = 1
            if hasattr(level, 'attentions'):
                put(f'{root}.output_blocks.{number}.1', level.attentions[index])
                place = 2
            if level.upsamplers and index == len(level.resnets) - 1:
                put(f'{root}.output_blocks.{number}.{place}.conv', level.upsamplers[0].conv)
            number += 1
    put(f'{root}.out.0', unet.conv_norm_out)
    put(f'{root}.out.2', unet.conv_out)

    vae = pipeline.vqvae
    put('first_stage_model.quant_conv', vae.quant_conv)
    put('first_stage_model.post_quant_conv', vae.post_quant_conv)
    sides = (('encoder', 'down', vae.encoder.down_blocks), ('decoder', 'up', list(vae.decoder.up_blocks)[::-1]))
    for side, way, levels in sides:
        half, name = getattr(vae, side), f'first_stage_model.{side}'
        put_all(name, conv_in=half.conv_in, conv_out=half.conv_out, norm_out=half.conv_norm_out)
        blocks = {f'{way}.{n}.block.{i}': b for n, level in enumerate(levels) for i, b in enumerate(level.resnets)}
        blocks |= {f'mid.block_{i + 1}': block for i, block in enumerate(half.mid_block.resnets)}
        for key, b in blocks.items():
            parts = dict(norm1=b.norm1, conv1=b.conv1, norm2=b.norm2, conv2=b.conv2, nin_shortcut=b.conv_shortcut)
            put_all(f'{name}.{key}', **parts)
        for n, level in enumerate(levels):
            for resize in getattr(level, f'{way}samplers') or ():
                put(f'{name}.{way}.{n}.{way}sample.conv', resize.conv)
        attention, place = half.mid_block.attentions[0], f'{name}.mid.attn_1'
        put(f'{place}.norm', attention.group_norm)
        linear = dict(q=attention.to_q, k=attention.to_k, v=attention.to_v, proj_out=attention.to_out[0])
        for key, module in linear.items():
            state[f'{place}.{key}.weight'] = module.weight.detach()[:, :, None, None].clone()
            state[f'{place}.{key}.bias'] = module.bias.detach()

    bert, root = pipeline.bert, 'cond_stage_model.transformer'
    put(f'{root}.token_emb', bert.model.embed_tokens)
    put(f'{root}.pos_emb.emb', bert.model.embed_positions)
    put(f'{root}.norm', bert.model.layer_norm)
    put(f'{root}.to_logits', bert.to_logits)
    for index, layer in enumerate(bert.model.layers):
        first, second = (f'{root}.attn_layers.layers.{2 * index + i}' for i in (0, 1))
        put(f'{first}.0', layer.self_attn_layer_norm)
        attention = layer.self_attn
        put_all(f'{first}.1', to_q=attention.q_proj, to_k=attention.k_proj, to_v=attention.v_proj)
        put(f'{first}.1.to_out', attention.out_proj)
        put(f'{second}.0', layer.final_layer_norm)
        put(f'{second}.1.net.0.0', layer.fc1)
        put(f'{second}.1.net.2', layer.fc2)
    return state


def write_checkpoint(path, pipeline, **more):
    """Save a pipeline as Lightning does: with what belongs to training, and a class of Lightning by its name."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2  # in double precision, as they are made there
    state = compvis_state(pipeline) | {
        'alphas_cumprod': torch.from_numpy(np.cumprod(1 - betas)).float(),
        'first_stage_model.loss.logvar': torch.zeros(()),
        **more,
    }
    package = 'pytorch_lightning.callbacks.model_checkpoint'
    names = ['pytorch_lightning', 'pytorch_lightning.callbacks', package]
    callback = type('ModelCheckpoint', (), dict(__module__=package))
    try:
        for name in names:
            sys.modules[name] = types.ModuleType(name)
        sys.modules[package].ModelCheckpoint = callback
        content = dict(state_dict=state, global_step=7, callbacks={callback: dict(best=callback())})
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(content, path)
    finally:
        for name in names:
            del sys.modules[name]
    return path


def write_embeddings(path, vectors, old=False):
    """Save a learned word as textual inversion does; ``old``: by a torch whose ``ParameterDict`` had fewer fields."""
    words = nn.ParameterDict({'*': nn.Parameter(vectors)})
    if old:
        del words.__dict__['_keys']
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(dict(string_to_token={'*': torch.tensor(1008)}, string_to_param=words), path)
    return path
