"""Files of AnoGen: the LDM checkpoint, learned words, sizes, templates, generated images."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import torch
from PIL import Image

from mmdefect.diffusion.compvis import convert_ldm, read_pickle, rename_unet, rename_vae
from mmdefect.diffusion.images import read_mask, write_image
from mmdefect.diffusion.masks import read_list, read_ranges
from mmdefect.diffusion.model import load_model
from mmdefect.diffusion.pack import read_pack
from mmdefect.diffusion.tokens import find_token, load_tokens

from .compvis_format import build_tiny, compvis_state, write_checkpoint, write_embeddings
from .test_masks import run


@pytest.fixture(scope='module')
def tiny():
    return build_tiny()


@pytest.fixture(scope='module')
def files(tiny, tmp_path_factory):
    """The checkpoint, the folder of the tokenizer, and the converted folder."""
    root = tmp_path_factory.mktemp('ldm')
    tiny.tokenizer.save_pretrained(root / 'bert')
    checkpoint = write_checkpoint(root / 'model.ckpt', tiny)
    assert run('convert-ldm', checkpoint, '--tokenizer', root / 'bert', '--out', root / 'converted') == 0
    return checkpoint, root / 'bert', root / 'converted'


def strip(state, prefix):
    return {key[len(prefix) :]: value for key, value in state.items() if key.startswith(prefix)}


def test_converted_networks_compute_what_the_saved_ones_do(tiny, files):
    model = load_model(files[2])
    assert model.kind == 'ldm' and model.vae.config.scaling_factor == 0.18215
    generator = torch.Generator().manual_seed(0)
    latents, photo = torch.randn(2, 4, 16, 16, generator=generator), torch.rand(1, 3, 32, 32, generator=generator)
    condition = model.encode_text(['photo of a crack', 'rust'])
    with torch.no_grad():
        ids = tiny.tokenizer(['photo of a crack', 'rust'], padding='max_length', max_length=77, return_tensors='pt')
        text = tiny.bert(ids.input_ids)[0]
        noise = tiny.unet(latents, 321, encoder_hidden_states=text).sample
        code = tiny.vqvae.encode(photo * 2 - 1).latent_dist.mode()
        assert torch.allclose(condition.tokens, text, atol=1e-6)
        assert torch.allclose(model.predict(latents, 321, condition), noise, atol=1e-5)
        assert torch.allclose(model.encode_images(photo), code * 0.18215, atol=1e-6)
        decoded = (tiny.vqvae.decode(code).sample / 2 + 0.5).clamp(0, 1)
        assert torch.allclose(model.decode(code * 0.18215), decoded, atol=1e-5)
    assert text.std() > 0.1 and noise.std() > 0.01, 'the outputs must not agree because they are constant'


def test_names_are_those_that_diffusers_converts_to(tiny):
    """Oracle: the converters that diffusers uses for single files of Stable Diffusion, whose networks are the same."""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint, convert_ldm_vae_checkpoint

    state = compvis_state(tiny)
    theirs = convert_ldm_unet_checkpoint(dict(state), dict(tiny.unet.config))
    mine = rename_unet(strip(state, 'model.diffusion_model.'))
    assert set(mine) == set(theirs) and all(torch.equal(mine[k], theirs[k]) for k in mine)
    theirs = convert_ldm_vae_checkpoint(dict(state), dict(tiny.vqvae.config))
    mine = rename_vae(strip(state, 'first_stage_model.'))
    assert set(mine) == set(theirs) and all(torch.equal(mine[k], theirs[k].reshape(mine[k].shape)) for k in mine)


def test_the_full_size_has_the_shapes_of_the_published_configuration(tmp_path):
    """Widths and levels of `txt2img-1p4B-eval.yaml`, read off weights without content."""
    from mmdefect.diffusion.compvis import _text_config, _unet_config, _vae_config
    from mmdefect.diffusion.random_model import build_pipeline

    with torch.device('meta'):
        full = build_pipeline('ldm', 'full')
    state = compvis_state(full)
    unet = _unet_config(strip(state, 'model.diffusion_model.'))
    assert unet['block_out_channels'] == (320, 640, 1280, 1280) and unet['layers_per_block'] == 2
    assert unet['cross_attention_dim'] == 1280 and unet['down_block_types'][2:] == (
        'CrossAttnDownBlock2D',
        'DownBlock2D',
    )
    vae = _vae_config(strip(state, 'first_stage_model.'))
    assert vae['block_out_channels'] == (128, 256, 512, 512) and vae['layers_per_block'] == 2
    text = _text_config(strip(state, 'cond_stage_model.transformer.'))
    assert (text['encoder_layers'], text['d_model'], text['encoder_ffn_dim'], text['head_dim']) == (32, 1280, 5120, 64)
    assert set(rename_unet(strip(state, 'model.diffusion_model.'))) == set(full.unet.state_dict())
    assert set(rename_vae(strip(state, 'first_stage_model.'))) == set(full.vqvae.state_dict())


def test_other_checkpoints_are_refused_in_a_sentence(tiny, files, tmp_path, capsys):
    checkpoint, bert, _ = files
    state = compvis_state(tiny)
    torch.save(dict(state_dict=strip(state, 'cond_stage_model.')), tmp_path / 'part.ckpt')
    with pytest.raises(ValueError, match=r'with model.diffusion_model.input_blocks.0.0.weight, but it has no such'):
        convert_ldm(tmp_path / 'part.ckpt', tmp_path / 'out', bert)
    one = 'model.diffusion_model.middle_block.2.out_layers.3.weight'
    torch.save({k: v for k, v in state.items() if k != one}, tmp_path / 'short.ckpt')
    with pytest.raises(ValueError, match=r'must be a network of LDM .* .mid_block.resnets.1.conv2.weight'):
        convert_ldm(tmp_path / 'short.ckpt', tmp_path / 'out', bert)
    write_checkpoint(tmp_path / 'noise.ckpt', tiny, alphas_cumprod=torch.linspace(1, 0, 1000))
    with pytest.raises(ValueError, match='must have the noise schedule of LDM'):
        convert_ldm(tmp_path / 'noise.ckpt', tmp_path / 'out', bert)
    (tmp_path / 'words').mkdir()
    (tmp_path / 'words' / 'vocab.txt').write_text('[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n')
    with pytest.raises(ValueError, match=r'must have the \d+ words of the text encoder, but has 6; give --tokenizer'):
        convert_ldm(checkpoint, tmp_path / 'out', tmp_path / 'words')
    (tmp_path / 'text.ckpt').write_text('no')
    assert run('convert-ldm', tmp_path / 'text.ckpt', '--out', tmp_path / 'out') == 2
    assert 'must be a file of torch.save since torch 1.6' in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


class Harmful:
    def __reduce__(self):
        return os.system, ('touch harmed',)


def test_a_pickle_executes_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(dict(state_dict=Harmful()), 'bad.ckpt')
    with pytest.raises(ValueError, match='must hold tensors in plain containers'):
        read_pickle('bad.ckpt')
    assert not (tmp_path / 'harmed').exists()


@pytest.mark.parametrize('old', [False, True])
def test_learned_words_of_textual_inversion(files, tmp_path, old):
    """Their prompt `*` with the word replaced gives what `{token}` gives here."""
    model, vectors = load_model(files[2]), torch.randn(1, 40)
    write_embeddings(tmp_path / 'bottle_broken_large' / 'embeddings.pt', vectors, old)
    path = find_token(tmp_path, 'bottle', 'broken_large')
    bank = load_tokens(path, model, 'broken_large')
    assert bank.counts == {'<broken_large>': 1} and torch.equal(bank.vectors[0], vectors)
    ids = model.tokenizers[0](['a'], padding='max_length', max_length=77, return_tensors='pt').input_ids
    base, bert = model.embeddings[0].base, model.text_encoders[0]
    embedded = base(ids)
    embedded[0, 1] = vectors[0]
    expected = bert(inputs_embeds=embedded)[0]
    assert torch.allclose(model.encode_text(['<broken_large>'], bank).tokens, expected, atol=1e-6)
    write_embeddings(path, torch.randn(1, 1280))
    with pytest.raises(ValueError, match=r'as wide as those of .*, \[40\], but they have 1280 numbers'):
        load_tokens(path, model, 'broken_large')
    torch.save(dict(other=1), path)
    with pytest.raises(ValueError, match='one learned word in `string_to_param`, but it holds none'):
        load_tokens(path, model, 'broken_large')


#: The published table, width, height, whether it is turned; the order of the categories is that of the file.
RANGES = """
bottle broken_large .2 .25 .25 .8 True, broken_small .15 .25 .15 .25 False, contamination .2 .4 .2 .4 True
cable bent_wire .1 .25 .1 .25 False, cable_swap .3 .4 .3 .4 False, combined .1 .2 .1 .2 False,
 cut_inner_insulation .1 .2 .1 .2 False, cut_outer_insulation .1 .2 .2 .4 True, missing_cable .4 .4 .4 .4 False,
 missing_wire .1 .2 .1 .2 False, poke_insulation .1 .2 .1 .2 False
capsule crack .1 .2 .1 .3 True, faulty_imprint .15 .25 .15 .25 False, poke .05 .15 .05 .15 False,
 scratch .05 .15 .15 .25 True, squeeze .25 .4 .3 .4 True
carpet color .1 .25 .1 .25 True, cut .05 .15 .05 .15 True, hole .05 .15 .05 .15 False,
 metal_contamination .05 .2 .05 .2 True, thread .05 .2 .05 .2 True
grid bent .05 .15 .05 .15 False, broken .1 .2 .1 .2 False, glue .1 .2 .1 .2 False,
 metal_contamination .1 .2 .1 .2 False, thread .05 .1 .1 .4 True
hazelnut crack .2 .35 .2 .35 False, cut .05 .2 .2 .3 True, hole .1 .15 .1 .15 False, print .2 .4 .2 .4 True
leather color .05 .1 .1 .2 True, cut .05 .1 .1 .2 True, fold .05 .1 .1 .2 True, glue .05 .15 .05 .15 True,
 poke .05 .15 .05 .15 True
metal_nut bent .1 .2 .1 .2 True, color .05 .1 .1 .2 True, flip .9 .9 .9 .9 False, scratch .2 .4 .2 .4 True
pill color .05 .15 .05 .15 True, combined .05 .15 .05 .15 True, contamination .05 .15 .05 .15 True,
 crack .05 .1 .1 .2 True, faulty_imprint .1 .4 .1 .4 False, pill_type .8 .8 .5 .5 False, scratch .05 .1 .1 .2 True
tile crack .05 .1 .2 1 True, glue_strip .1 .4 .1 .4 True, gray_stroke .1 .4 .1 .4 True, oil .1 .4 .1 .4 False,
 rough .1 .4 .1 .4 True
toothbrush defective .1 .15 .1 .15 False
transistor bent_lead .2 .4 .15 .3 False, cut_lead .3 .6 .15 .4 False, damaged_case .25 .4 .25 .4 False,
 misplaced .9 .9 .9 .9 False
wood color .1 .3 .1 .3 True, combined .1 .3 .1 .3 True, hole .05 .15 .05 .15 False, liquid .1 .3 .1 .3 True,
 scratch .1 .2 .2 .5 True
zipper broken_teeth .05 .15 .1 .2 False, combined .05 .15 .1 .2 False, fabric_border .05 .15 .1 .2 False,
 fabric_interior .05 .15 .1 .2 False, split_teeth .05 .15 .1 .2 False, rough .05 .15 .1 .2 False,
 squeezed_teeth .05 .15 .1 .2 False
"""


def published_ranges():
    """The content of `mvtec_range.json`."""
    table = {}
    for line in RANGES.replace(',\n', ',').strip().splitlines():
        category, rows = line.split(' ', 1)
        table[category] = {}
        for kind, *numbers, turned in map(str.split, rows.split(',')):
            low_w, high_w, low_h, high_h = map(float, numbers)
            table[category][kind] = [[low_w, high_w], [low_h, high_h], turned]
    return table


def test_published_sizes_are_read_as_they_are_shipped(tmp_path):
    (tmp_path / 'mvtec_range.json').write_text(json.dumps(published_ranges(), indent=4))
    assert read_ranges(tmp_path / 'mvtec_range.json') == read_ranges()
    for turned in (True, 'true', 1, None):
        (tmp_path / 'wrong.json').write_text(json.dumps(dict(tile=dict(oil=[[0.1, 0.2], [0.1, 0.2], turned]))))
        with pytest.raises(ValueError, match=r'tile/oil must be .*"True" or "False"'):
            read_ranges(tmp_path / 'wrong.json')


def test_a_folder_of_templates_gives_each_type_its_region(tmp_path, capsys):
    (tmp_path / 'mvtec_range.json').write_text(json.dumps(published_ranges()))
    regions = dict(broken_small=np.s_[:, :32], contamination=np.s_[:, 32:])
    for kind, area in regions.items():
        template = np.zeros((64, 64, 3), np.uint8)  # theirs have three channels
        template[area] = 255
        write_image(tmp_path / 'mask_template' / 'bottle' / kind / 'mask.png', template)
    drawn = ['masks --category bottle --types', *regions, '--template', tmp_path / 'mask_template']
    drawn += ['--ranges', tmp_path / 'mvtec_range.json', '--count 6 --size 96 128 --out']
    assert run(*drawn, tmp_path / 'masks') == 0
    entries = read_list(tmp_path / 'masks')
    assert len(entries) == 12 and {e.defect_type for e in entries} == set(regions)
    for entry in entries:
        mask = read_mask(tmp_path / 'masks' / entry.file)
        inside = mask[:, :64] if entry.defect_type == 'broken_small' else mask[:, 64:]
        assert mask.shape == (96, 128) and inside.sum() > 0.7 * mask.sum() and entry.source is None
        assert (entry.box['degrees'] > 0) == (entry.defect_type == 'contamination'), '"False" is not turned'
    drawn[0] = 'masks --category bottle --types broken_large'
    assert run(*drawn, tmp_path / 'more') == 2
    assert 'broken_large/mask.png must exist' in capsys.readouterr().err.replace(os.sep, '/')


@pytest.mark.parametrize('where', ['masks', 'own', 'among'])
def test_generated_folders_become_weak_boxes(tmp_path, where, capsys):
    """Bottle keeps masks by type, screw by image; their script copies those of screw among the images."""
    random, folder, good = np.random.default_rng(0), tmp_path / 'anomaly' / 'bottle', tmp_path / 'train' / 'good'
    for number in range(2):
        write_image(good / f'{number:03d}.png', random.integers(0, 255, (64, 64, 3)).astype(np.uint8))
    boxes = {}
    for image, mask, kind in (
        ('000', '017', 'broken_large'),
        ('001', '017', 'contamination'),
        ('001', '003', 'broken_large'),
    ):
        area = np.zeros((32, 32), bool)
        area[int(mask) : int(mask) + 8, 4 : 10 + int(image)] = True
        name = f'{mask}-{kind}' if where == 'masks' else f'{image}-{mask}'
        write_image(folder / ('images' if where == 'among' else 'masks') / f'{name}.png', area)
        for number in range(2):
            stem = f'{image}-{mask}-{number:04d}-{kind}'
            pixels = Image.fromarray(random.integers(0, 255, (32, 32, 3)).astype(np.uint8))
            (folder / 'images').mkdir(parents=True, exist_ok=True)
            pixels.save(folder / 'images' / f'{stem}.png', format='JPEG')  # their files are JPEG by another name
            boxes[stem] = area * (1 + (kind == 'contamination'))
    packing = ['pack-boxes', folder, '--classes good broken_large contamination --out', tmp_path / 'set']
    assert run(*packing) == 2 and 'name their folder with --sources' in capsys.readouterr().err
    assert run(*packing, '--sources', good) == 0
    packed = read_pack(tmp_path / 'set')
    assert packed.labels == 'boxes' and {i.entry['name'] for i in packed.images} == set(boxes)
    for image in packed.images:
        label = np.asarray(Image.open(tmp_path / 'set' / image.label))
        assert np.array_equal(label, boxes[image.entry['name']])
        assert image.entry['source'] == image.entry['name'][:3] + '.png' and len(image.entry['source_sha256']) == 64
    (good / '001.png').unlink()
    packing[-1] = tmp_path / 'again'
    assert run(*packing, '--sources', good) == 2
    assert 'must be named IMAGE-MASK-SAMPLE-TYPE with an image of' in capsys.readouterr().err
