"""Files of CompVis' latent-diffusion and of what was built on it (textual inversion, AnoGen), read into our formats.

The published LDM text-to-image checkpoint (``text2img-large/model.ckpt``) is one pickle of torch with three networks::

    model.diffusion_model.*           predicts the noise
    first_stage_model.*               autoencoder
    cond_stage_model.transformer.*    text encoder, a transformer with the vocabulary of BERT

:func:`convert_ldm` writes them as the folder of diffusers that everything else here loads. Widths, depths and places of
attention are read off the weights. What weights do not show is fixed in the published configuration
(``txt2img-1p4B-eval.yaml`` of CompVis/latent-diffusion): 8 heads, groups of 32, and the noise schedule.
"""

import os
import pickle
import re
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmdefect.diffusion.random_model import NOISE
from mmdefect.extras import require
from mmdefect.files import new_folder

UNET, VAE, TEXT = 'model.diffusion_model.', 'first_stage_model.', 'cond_stage_model.transformer.'
_HEADS, _GROUPS, _SCALING = 8, 32, 0.18215
Rules = Sequence[tuple[str, 'str | Callable[[re.Match], str]']]
#: Names in a residual block and in a block of attention of the noise predictor, and those of diffusers.
_RESNET: Rules = (
    (r'\.in_layers\.0\.', '.norm1.'),
    (r'\.in_layers\.2\.', '.conv1.'),
    (r'\.emb_layers\.1\.', '.time_emb_proj.'),
    (r'\.out_layers\.0\.', '.norm2.'),
    (r'\.out_layers\.3\.', '.conv2.'),
    (r'\.skip_connection\.', '.conv_shortcut.'),
)
_TEXT_RULES: Rules = (
    (r'^token_emb\.', 'model.embed_tokens.'),
    (r'^pos_emb\.emb\.', 'model.embed_positions.'),
    (r'^norm\.', 'model.layer_norm.'),
    (
        r'^attn_layers\.layers\.(\d+)\.0\.',  # attention and feed-forward layers take turns
        lambda m: f'model.layers.{int(m[1]) // 2}.{("self_attn_layer_norm", "final_layer_norm")[int(m[1]) % 2]}.',
    ),
    (r'^attn_layers\.layers\.(\d+)\.1\.', lambda m: f'model.layers.{int(m[1]) // 2}.'),
    (r'\.to_([qkv])\.', r'.self_attn.\1_proj.'),
    (r'\.to_out\.', '.self_attn.out_proj.'),
    (r'\.net\.0\.0\.', '.fc1.'),
    (r'\.net\.2\.', '.fc2.'),
)


class _Unknown:
    """Stands for every object in a pickle that is not torch's own; it takes anything and does nothing."""

    def __init__(self, *args: Any, **keywords: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def read_pickle(path: str | os.PathLike) -> dict:
    """Read a dict that ``torch.save`` wrote; nothing of the file is executed, foreign objects become stand-ins.

    Checkpoints of Lightning name classes of that package, which need not be installed.

    Raises:
        ValueError: if the file is missing, of another format, or wants to call what could do harm.
    """
    if not Path(path).is_file():
        raise ValueError(f'the file {path} must exist, but it does not; correct the path.')
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f'{path} must be a file of torch.save since torch 1.6, but it is none; download it again, or save it anew.'
        )
    if not hasattr(torch.serialization, 'get_unsafe_globals_in_checkpoint'):
        raise ValueError(f'{path} must be read with torch 2.6 or later, but torch is {torch.__version__}; upgrade it.')
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
        known = {'torch.nn.modules.container.ParameterDict': nn.ParameterDict}
        allowed = [(known.get(name) or type('Unknown', (_Unknown,), {}), name) for name in names]
        with torch.serialization.safe_globals(allowed):
            content = torch.load(path, map_location='cpu', weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, AttributeError, TypeError, KeyError) as err:
        words = ' '.join(str(err).split())[:200]
        raise ValueError(f'{path} must hold tensors in plain containers, but reading fails: {words}.') from err
    if not isinstance(content, dict):
        raise ValueError(f'{path} must hold a dict, but it holds {type(content).__name__}; take the checkpoint itself.')
    return content


def read_embeddings(path: str | os.PathLike) -> Tensor:
    """Return the vectors of the one word that textual inversion learned, ``(N, D)`` float32 (``embeddings.pt``)."""
    learned = read_pickle(path).get('string_to_param')
    words = dict(learned.named_parameters()) if isinstance(learned, nn.Module) else learned
    if not isinstance(words, dict) or len(words) != 1:
        found = sorted(words) if isinstance(words, dict) else 'none'
        raise ValueError(f'{path} must hold one learned word in `string_to_param`, but it holds {found}.')
    vectors = next(iter(words.values())).detach().float()
    return vectors[None] if vectors.ndim == 1 else vectors


def convert_ldm(
    checkpoint: str | os.PathLike, out: str | os.PathLike, tokenizer: str | os.PathLike = 'bert-base-uncased'
) -> Path:
    """Write a CompVis text-to-image checkpoint as a pipeline of diffusers and return its folder, which must not exist.

    Losses and running averages that a file also holds are left out; the published configuration does not use them.

    Args:
        tokenizer: folder or hub id of the tokenizer, which the checkpoint lacks: that of uncased BERT.

    Raises:
        ValueError: if a network is missing or of another kind, or the tokenizer does not fit.
    """
    require('generation', 'diffusers', 'transformers', who='a diffusion model')
    import transformers
    from diffusers import AutoencoderKL, DDIMScheduler, LDMTextToImagePipeline, UNet2DConditionModel
    from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel

    transformers.utils.logging.disable_progress_bar()
    out = Path(out)
    if out.exists():
        raise FileExistsError(f'{out} must not exist yet, but it does; name another folder.')
    content = read_pickle(checkpoint)
    state = content.get('state_dict', content)
    scheduler = DDIMScheduler(clip_sample=False, set_alpha_to_one=False, **NOISE)
    signal = state.get('alphas_cumprod')
    known = scheduler.alphas_cumprod  # a product of a thousand factors in float32; theirs is rounded once
    if signal is not None and not (signal.shape == known.shape and torch.allclose(signal.float(), known, 1e-3)):
        raise ValueError(f'{checkpoint} must have the noise schedule of LDM text-to-image, but has another; take that.')
    parts, signs = {}, ('input_blocks.0.0.weight', 'post_quant_conv.weight', 'token_emb.weight')
    for prefix, sign in zip((UNET, VAE, TEXT), signs, strict=True):
        parts[prefix] = {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}
        if sign not in parts[prefix]:
            raise ValueError(
                f'{checkpoint} must be LDM text-to-image in the format of CompVis, with {prefix}{sign}, but it has no '
                'such weights; of Stable Diffusion, take a folder in the format of diffusers.'
            )
    with torch.device('meta'):  # the weights of the file become those of the networks, without a second copy
        unet = UNet2DConditionModel(**_unet_config(parts[UNET]))
        vae = AutoencoderKL(scaling_factor=float(state.get('scale_factor', _SCALING)), **_vae_config(parts[VAE]))
        bert = LDMBertModel(LDMBertConfig(**_text_config(parts[TEXT])))
    _load(unet, rename_unet(parts[UNET]), f'{checkpoint}: {UNET}')
    _load(vae, rename_vae(parts[VAE]), f'{checkpoint}: {VAE}')
    _load(bert, _renamed(parts[TEXT], _TEXT_RULES), f'{checkpoint}: {TEXT}')
    words = _load_tokenizer(tokenizer, bert.config.vocab_size)
    pipeline = LDMTextToImagePipeline(vqvae=vae, bert=bert, tokenizer=words, unet=unet, scheduler=scheduler)
    with new_folder(out) as unfinished:
        pipeline.save_pretrained(unfinished)
    return out


def _load(network: nn.Module, state: dict[str, Tensor], name: str) -> None:
    try:
        network.load_state_dict(state, assign=True)
    except RuntimeError as err:
        words = ' '.join(str(err).split())[:300].rstrip('.')
        raise ValueError(f'{name}* must be a network of LDM text-to-image, but it is not ({words}).') from err
    network.eval()


def _load_tokenizer(tokenizer: str | os.PathLike, rows: int):
    from transformers import BertTokenizer

    advice = 'give --tokenizer the folder of bert-base-uncased (vocab.txt).'
    try:
        words = BertTokenizer.from_pretrained(str(tokenizer), model_max_length=77)
    except (OSError, ValueError, TypeError) as err:
        reason = ' '.join(str(err).split())[:200]
        raise ValueError(f'the tokenizer {tokenizer} must load, but it does not ({reason}); {advice}') from err
    if len(words) != rows:
        raise ValueError(
            f'the tokenizer {tokenizer} must have the {rows} words of the text encoder, but has {len(words)}; {advice}'
        )
    return words


def _renamed(state: dict[str, Tensor], rules: Rules) -> dict[str, Tensor]:
    renamed = {}
    for key, value in state.items():
        for pattern, name in rules:
            key = re.sub(pattern, name, key)
        renamed[key] = value
    return renamed


def rename_unet(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the noise predictor, keys without prefix, under the names of diffusers."""
    block = _layers_of(state) + 1  # blocks of a level that go in, the last one shrinks; as many come out

    def going_in(match: re.Match) -> str:
        level, place = divmod(int(match[1]) - 1, block)
        return f'down_blocks.{level}.{("resnets", "attentions")[int(match[2])]}.{place}.'

    def coming_out(match: re.Match) -> str:
        level, place = divmod(int(match[1]), block)
        return f'up_blocks.{level}.{("resnets", "attentions")[int(match[2])]}.{place}.'

    rules = (
        (r'^input_blocks\.0\.0\.', 'conv_in.'),
        (r'^input_blocks\.(\d+)\.0\.op\.', lambda m: f'down_blocks.{int(m[1]) // block - 1}.downsamplers.0.conv.'),
        (r'^output_blocks\.(\d+)\.[12]\.conv\.', lambda m: f'up_blocks.{int(m[1]) // block}.upsamplers.0.conv.'),
        (r'^input_blocks\.(\d+)\.([01])\.', going_in),
        (r'^output_blocks\.(\d+)\.([01])\.', coming_out),
        (r'^middle_block\.1\.', 'mid_block.attentions.0.'),
        (r'^middle_block\.([02])\.', lambda m: f'mid_block.resnets.{int(m[1]) // 2}.'),
        (r'^time_embed\.([02])\.', lambda m: f'time_embedding.linear_{int(m[1]) // 2 + 1}.'),
        (r'^out\.0\.', 'conv_norm_out.'),
        (r'^out\.2\.', 'conv_out.'),
        *_RESNET,
    )
    return _renamed(state, rules)


def rename_vae(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the autoencoder, keys without prefix, under the names of diffusers, without its losses."""
    last = _depth(state, r'decoder\.up\.(\d+)\.') - 1
    rules = (
        (r'^encoder\.down\.', 'encoder.down_blocks.'),
        (r'^decoder\.up\.(\d+)\.', lambda m: f'decoder.up_blocks.{last - int(m[1])}.'),
        (r'\.block\.', '.resnets.'),
        (r'\.(down|up)sample\.conv\.', r'.\1samplers.0.conv.'),
        (r'\.mid\.block_([12])\.', lambda m: f'.mid_block.resnets.{int(m[1]) - 1}.'),
        (r'\.nin_shortcut\.', '.conv_shortcut.'),
        (r'\.norm_out\.', '.conv_norm_out.'),
        (r'\.mid\.attn_1\.norm\.', '.mid_block.attentions.0.group_norm.'),
        (r'\.mid\.attn_1\.([qkv])\.', r'.mid_block.attentions.0.to_\1.'),
        (r'\.mid\.attn_1\.proj_out\.', '.mid_block.attentions.0.to_out.0.'),
    )
    renamed = _renamed({k: v for k, v in state.items() if not k.startswith('loss.')}, rules)
    # attention there is a convolution of one pixel, here a linear layer
    return {k: v[:, :, 0, 0] if '.attentions.' in k and v.ndim == 4 else v for k, v in renamed.items()}


def _depth(state: dict[str, Tensor], pattern: str) -> int:
    """Return how many there are of what the pattern numbers."""
    return len({match[1] for match in map(re.compile(pattern).match, state) if match})


def _layers_of(state: dict[str, Tensor]) -> int:
    """Return the residual blocks of a level of the noise predictor that go in; the first one that shrinks ends them."""
    shrinking = [int(m[1]) for m in map(re.compile(r'input_blocks\.(\d+)\.0\.op\.weight').match, state) if m]
    return min(shrinking, default=_depth(state, r'input_blocks\.(\d+)\.')) - 1


def _unet_config(state: dict[str, Tensor]) -> dict:
    layers = _layers_of(state)
    first = range(1, _depth(state, r'input_blocks\.(\d+)\.'), layers + 1)  # blocks that begin a level
    attends = [f'input_blocks.{n}.1.norm.weight' in state for n in first]
    text = next((v.shape[1] for k, v in state.items() if k.endswith('attn2.to_k.weight')), None)
    return dict(
        sample_size=32,
        in_channels=state['input_blocks.0.0.weight'].shape[1],
        out_channels=state['input_blocks.0.0.weight'].shape[1],
        block_out_channels=tuple(state[f'input_blocks.{n}.0.in_layers.2.weight'].shape[0] for n in first),
        down_block_types=tuple('CrossAttnDownBlock2D' if a else 'DownBlock2D' for a in attends),
        up_block_types=tuple('CrossAttnUpBlock2D' if a else 'UpBlock2D' for a in reversed(attends)),
        layers_per_block=layers,
        cross_attention_dim=text,
        attention_head_dim=_HEADS,  # diffusers calls the number of heads so
        norm_num_groups=_GROUPS,
    )


def _vae_config(state: dict[str, Tensor]) -> dict:
    levels = _depth(state, r'encoder\.down\.(\d+)\.')
    return dict(
        latent_channels=state['post_quant_conv.weight'].shape[0],
        block_out_channels=tuple(state[f'encoder.down.{n}.block.0.conv1.weight'].shape[0] for n in range(levels)),
        down_block_types=('DownEncoderBlock2D',) * levels,
        up_block_types=('UpDecoderBlock2D',) * levels,
        layers_per_block=_depth(state, r'encoder\.down\.0\.block\.(\d+)\.'),
        norm_num_groups=_GROUPS,
        sample_size=256,
    )


def _text_config(state: dict[str, Tensor]) -> dict:
    words, width = state['token_emb.weight'].shape
    layer = 'attn_layers.layers'
    return dict(
        vocab_size=words,
        d_model=width,
        max_position_embeddings=state['pos_emb.emb.weight'].shape[0],
        encoder_layers=_depth(state, r'attn_layers\.layers\.(\d+)\.') // 2,
        encoder_ffn_dim=state[f'{layer}.1.1.net.0.0.weight'].shape[0],
        encoder_attention_heads=_HEADS,
        head_dim=state[f'{layer}.0.1.to_q.weight'].shape[0] // _HEADS,
        pad_token_id=0,
    )
