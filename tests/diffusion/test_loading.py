"""Pipelines from disk: what they compute, and what is said when they cannot be loaded."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from mmdefect.diffusion.model import ModelOptions, load_model
from mmdefect.diffusion.tokens import TokenBank, start_vectors


def test_text_is_encoded_as_the_pipeline_does(model):
    """Oracle: the encoding function of diffusers; for LDM, which has none, its encoder called by hand."""
    texts = ['photo of a crack', 'rust']
    mine = model.encode_text(texts)
    pipe = model.pipeline
    if model.kind == 'sdxl':
        tokens, _, pooled, _ = pipe.encode_prompt(texts, device='cpu', do_classifier_free_guidance=False)
        assert torch.equal(mine.pooled, pooled)
    elif model.kind == 'sd':
        tokens, _ = pipe.encode_prompt(texts, 'cpu', 1, False)
    else:
        ids = pipe.tokenizer(texts, padding='max_length', max_length=77, return_tensors='pt').input_ids
        tokens = pipe.bert(ids)[0]
    assert torch.equal(mine.tokens, tokens)


def test_guidance_starts_from_what_the_pipeline_starts_from(pipelines):
    model = load_model(pipelines['sdxl'])
    _, negative, _, negative_pooled = model.pipeline.encode_prompt('rust', device='cpu')
    mine = model.encode_unconditional([''])
    assert torch.equal(mine.tokens, negative) and torch.equal(mine.pooled, negative_pooled) and not mine.tokens.any()
    assert model.encode_unconditional(['dent']).tokens.any()


def test_whole_sampling_equals_the_pipeline(pipelines):
    """Text, network and decoder together, without a mask."""
    from diffusers import DDIMScheduler

    model = load_model(pipelines['sdxl'])
    pipe = model.pipeline
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    start = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(3))
    theirs = pipe(
        'photo of a crack',
        latents=start.clone(),
        num_inference_steps=3,
        guidance_scale=4.0,
        height=32,
        width=32,
        output_type='pt',
    ).images
    condition, empty = model.encode_text(['photo of a crack']), model.encode_unconditional([''])
    latents = start
    pipe.scheduler.set_timesteps(3)
    with torch.no_grad():
        for step in pipe.scheduler.timesteps:
            guided, plain = model.predict(latents, step, condition), model.predict(latents, step, empty)
            latents = pipe.scheduler.step(plain + 4.0 * (guided - plain), step, latents).prev_sample
        mine = model.decode(latents)
    assert torch.allclose(mine, theirs, atol=1e-4)


def test_network_is_frozen(model):
    for module in (model.unet, model.vae, *model.text_encoders):
        assert not module.training and not any(p.requires_grad for p in module.parameters())


def test_images_survive_the_shapes(model):
    photos = torch.rand(2, 3, 32, 48)
    with torch.no_grad():
        latents = model.encode_images(photos)
        assert latents.shape == (2, 4, 16, 24) and model.factor == 2
        assert model.decode(latents).shape == photos.shape
    with pytest.raises(ValueError, match=r'multiple of 4 .* got 34 48; give --resolution 32 48'):
        model.check_size((34, 48))


def test_attention_slicing_and_tiling_change_nothing_that_counts(pipelines):
    plain = load_model(pipelines['sd'])
    sliced = load_model(pipelines['sd'], ModelOptions(attention_slicing=True, vae_tiling=True))
    latents, condition = torch.randn(2, 4, 16, 16), plain.encode_text(['a crack', 'rust'])
    with torch.no_grad():
        one, two = (m.predict(latents, 500, condition) for m in (plain, sliced))
    assert torch.allclose(one, two, atol=1e-5)
    assert sliced.vae.use_tiling and sliced.vae.use_slicing
    assert 'Sliced' in type(next(iter(sliced.unet.attn_processors.values()))).__name__


@pytest.mark.parametrize('kind', ['sd', 'sdxl'])
def test_offloaded_layers_compute_the_same(pipelines, kind):
    """What `--offload sequential` installs, with the CPU in the place of the GPU."""
    from accelerate import cpu_offload

    plain, offloaded = load_model(pipelines[kind]), load_model(pipelines[kind])
    for module in (offloaded.unet, offloaded.vae, *offloaded.text_encoders):
        cpu_offload(module, 'cpu')
    assert all(p.device.type == 'meta' for p in offloaded.unet.parameters())
    image, latents = torch.rand(1, 3, 32, 32), torch.randn(1, 4, 16, 16)
    bank = TokenBank({'<spot>': 1}, start_vectors(plain, 'crack', 1))
    with torch.no_grad():
        results = [
            (m.encode_images(image), m.decode(latents), m.predict(latents, 400, m.encode_text(['a <spot>'], bank)))
            for m in (plain, offloaded)
        ]
    for one, two in zip(*results, strict=True):
        assert torch.allclose(one, two, atol=1e-6)


def test_offload_options_reach_the_pipeline(pipelines, monkeypatch):
    from diffusers import StableDiffusionPipeline

    asked = []
    for name in ('model', 'sequential'):
        monkeypatch.setattr(
            StableDiffusionPipeline,
            f'enable_{name}_cpu_offload',
            lambda self, device, name=name: asked.append((name, device)),
        )
        monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
        load_model(pipelines['sd'], ModelOptions('cuda:0', offload=name))
    assert asked == [('model', 'cuda:0'), ('sequential', 'cuda:0')]


def test_bf16_runs(pipelines):
    model = load_model(pipelines['sdxl'], ModelOptions(dtype='bf16'))
    with torch.no_grad():
        output = model.predict(torch.randn(1, 4, 16, 16), 10, model.encode_text(['rust']))
    assert next(model.unet.parameters()).dtype == torch.bfloat16 and output.dtype == torch.float32


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(dtype='fp8'), '`dtype` must be one of fp32, fp16, bf16'),
        (dict(offload='disk'), '`offload` must be one of none, model, sequential'),
        (dict(offload='model'), '`offload` must be none on the CPU'),
        (dict(dtype='fp16'), 'fp32 or bf16 on the CPU'),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ValueError, match=message):
        ModelOptions(**options)


@pytest.fixture()
def broken(pipelines, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(pipelines['sd'], tmp_path / 'model')


def test_other_pipelines_are_named_with_those_that_work(broken):
    index = json.loads((broken / 'model_index.json').read_text())
    (broken / 'model_index.json').write_text(json.dumps(dict(index, _class_name='FluxPipeline')))
    with pytest.raises(
        ValueError,
        match='LDMTextToImagePipeline, StableDiffusionPipeline, StableDiffusionXLPipeline, but .* holds FluxPipeline',
    ):
        load_model(broken)


def test_a_folder_without_index_says_what_it_holds(broken):
    (broken / 'model_index.json').unlink()
    with pytest.raises(ValueError, match=r'has none; it holds scheduler, text_encoder, .*Supported pipelines'):
        load_model(broken)


def test_missing_weights_are_named(broken):
    (broken / 'unet' / 'diffusion_pytorch_model.safetensors').unlink()
    with pytest.raises(ValueError, match=r'unet must hold weights .* holds config.json only'):
        load_model(broken)
    shutil.rmtree(broken / 'unet')
    with pytest.raises(ValueError, match='must hold unet/'):
        load_model(broken)


def test_a_single_file_and_an_unreachable_id(tmp_path, monkeypatch):
    (tmp_path / 'v1.ckpt').write_bytes(b'0')
    with pytest.raises(ValueError, match='is a single file; convert it'):
        load_model(tmp_path / 'v1.ckpt')
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    with pytest.raises(ValueError, match='existing folder or a hub id that can be reached'):
        load_model('nobody/nothing-at-all-here')


def test_weights_that_do_not_fit_the_architecture(broken):
    config = json.loads((broken / 'unet' / 'config.json').read_text())
    (broken / 'unet' / 'config.json').write_text(json.dumps(dict(config, cross_attention_dim=64)))
    with pytest.raises(ValueError, match='must load as StableDiffusionPipeline, but they do not'):
        load_model(broken)


def test_inpainting_networks_are_refused(tmp_path, pipelines):
    from diffusers import UNet2DConditionModel

    target = shutil.copytree(pipelines['sd'], tmp_path / 'inpainting')
    config = dict(UNet2DConditionModel.load_config(target / 'unet'), in_channels=9)
    UNet2DConditionModel.from_config(config).save_pretrained(target / 'unet')
    with pytest.raises(ValueError, match='takes 9; that is a model for inpainting'):
        load_model(target)


def test_missing_packages_name_the_extra(monkeypatch, pipelines):
    import sys

    monkeypatch.setitem(sys.modules, 'diffusers', None)
    with pytest.raises(ImportError, match=r'needs diffusers.*mmdefect\[generation\]'):
        load_model(pipelines['sd'])
