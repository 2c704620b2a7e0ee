"""Inversion, null text, prompt-to-prompt and RLI on tiny pipelines, and the command that makes sets of them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mmdefect.diffusion import edit as edit_module
from mmdefect.diffusion.edit import EditPlan, edit_images, invert_images
from mmdefect.diffusion.images import read_image, write_image
from mmdefect.diffusion.inversion import DDIMSteps, NullTextSettings, denoise_step, invert, move, optimise_null_text
from mmdefect.diffusion.manifest import Manifest
from mmdefect.diffusion.model import ModelOptions, load_model
from mmdefect.diffusion.prompt_edit import (
    EditSettings,
    align,
    controlled,
    edit_latents,
    make_editor,
    map_size,
    site_of,
    token_ids,
    word_tokens,
)

from .test_masks import run

SOURCE, TARGET = 'photo of a crack defect image', 'photo of a rust defect image'


def listening(folder):
    """A tiny pipeline whose random network listens to its text, as a trained one does."""
    model = load_model(folder)
    with torch.no_grad():
        for name, weight in model.unet.named_parameters():
            if 'attn2' in name:
                weight.mul_(4)
    return model


@pytest.fixture(scope='module', params=['sd', 'sdxl'])
def model(request, pipelines):
    return listening(pipelines[request.param])


@pytest.fixture(scope='module')
def sd(pipelines):
    return listening(pipelines['sd'])


@pytest.fixture(scope='module')
def tensors(images):
    return torch.from_numpy(images[0][:2].transpose(0, 3, 1, 2).astype(np.float32) / 255)


@pytest.fixture(scope='module')
def inverted(model, tensors):
    """Trajectory of two images over five steps, with texts."""
    steps = DDIMSteps.of(model, 5)
    with torch.no_grad():
        clean = model.encode_images(tensors)
        condition, empty = model.encode_text([SOURCE] * 2), model.encode_unconditional([''] * 2)
    return steps, invert(model, clean, condition, steps), condition, empty


def go_back(model, start, condition, empty, steps, guidance):
    latents = start
    with torch.no_grad():
        for index in range(len(steps)):
            text = empty[index] if isinstance(empty, list) else empty
            latents = denoise_step(model, latents, steps, index, condition, text, guidance)
    return latents


@pytest.mark.parametrize('prediction', ['epsilon', 'v_prediction'])
def test_going_back_is_ddim_of_diffusers(pipelines, prediction):
    model = load_model(pipelines['sd'])
    model.pipeline.scheduler.register_to_config(prediction_type=prediction)
    steps, start = DDIMSteps.of(model, 6), torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    condition, empty = model.encode_text(['rust']), model.encode_unconditional([''])
    mine = go_back(model, start, condition, empty, steps, 3.0)
    scheduler = model.make_scheduler('ddim')
    scheduler.set_timesteps(6)
    theirs = start
    with torch.no_grad():
        for time in scheduler.timesteps:
            plain, guided = model.predict(theirs, time, empty), model.predict(theirs, time, condition)
            theirs = scheduler.step(plain + 3.0 * (guided - plain), time, theirs).prev_sample
    assert torch.allclose(mine, theirs, atol=1e-4 * float(theirs.abs().max()))


def test_a_step_and_its_inverse():
    latents, noise = torch.randn(2, 2, 4, 4, 4, dtype=torch.float64).unbind()
    there = move(latents, noise, 0.9, 0.2)
    assert torch.allclose(move(there, noise, 0.2, 0.9), latents)
    assert torch.allclose(there, 0.2**0.5 * (latents - 0.1**0.5 * noise) / 0.9**0.5 + 0.8**0.5 * noise)


def test_inversion_leads_back_without_guidance(sd, monkeypatch):
    """A network that varies smoothly in place of the random one: the error of plain inversion falls with the steps."""
    clean = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(2))
    monkeypatch.setattr(sd, 'predict', lambda latents, step, text: torch.tanh(latents) * (0.4 + float(step) / 2000))
    text = sd.encode_text(['rust'] * 2)
    errors = []
    for count in (10, 20, 40):
        steps = DDIMSteps.of(sd, count)
        trajectory = invert(sd, clean, text, steps)
        assert len(trajectory) == count + 1 and torch.equal(trajectory[0], clean)
        errors.append(float((go_back(sd, trajectory[-1], text, text, steps, 1.0) - clean).norm()))
    assert errors[1] < 0.65 * errors[0] and errors[2] < 0.65 * errors[1], errors
    monkeypatch.setattr(sd, 'predict', lambda latents, step, text: torch.ones_like(latents))
    steps = DDIMSteps.of(sd, 4)
    there = invert(sd, clean, text, steps)[-1]
    assert torch.allclose(go_back(sd, there, text, text, steps, 1.0), clean, atol=1e-4), 'constant noise: exact'


def test_null_text_reconstructs_better_than_plain_inversion(model, inverted):
    steps, trajectory, condition, empty = inverted
    errors = {}
    for inner in (0, 10):
        texts, end = optimise_null_text(
            model,
            trajectory,
            condition,
            empty,
            steps,
            NullTextSettings(inner, guidance=5.0, tolerance=0, tolerance_growth=0),
        )
        errors[inner] = (end - trajectory[0]).square().mean((1, 2, 3))
        assert torch.allclose(end, go_back(model, trajectory[-1], condition, texts, steps, 5.0), atol=1e-4)
    assert (errors[10] < 0.9 * errors[0]).all(), errors
    if model.kind == 'sdxl':
        assert not torch.equal(texts[0].pooled, empty.pooled), 'the pooled embedding is optimised, too'
    assert not any(p.requires_grad or p.grad is not None for p in model.unet.parameters())


def test_null_text_of_a_image_does_not_depend_on_its_batch(sd, tensors):
    steps = DDIMSteps.of(sd, 3)
    settings = EditSettings(alpha=0)
    both, alone = (
        invert_images(sd, t, SOURCE, steps, NullTextSettings(4, tolerance=1e-3), settings)
        for t in (tensors, tensors[1:])
    )
    for one, two in zip(both.empties, alone.empties, strict=True):
        assert torch.allclose(one.tokens[1:], two.tokens, atol=2e-3)
    assert torch.allclose(both.noise[1:], alone.noise, atol=1e-4)


def test_close_enough_is_left_alone(sd, inverted, tensors):
    """With a large tolerance nothing is optimised; without guidance there is nothing to optimise."""
    steps = DDIMSteps.of(sd, 3)
    with torch.no_grad():
        clean = sd.encode_images(tensors)
        condition, empty = sd.encode_text([SOURCE] * 2), sd.encode_unconditional([''] * 2)
    trajectory = invert(sd, clean, condition, steps)
    for settings in (NullTextSettings(5, tolerance=1e9), NullTextSettings(5, guidance=1.0)):
        texts, _ = optimise_null_text(sd, trajectory, condition, empty, steps, settings)
        assert all(torch.equal(t.tokens, empty.tokens) for t in texts)


def run_edit(model, inverted, source, target, settings):
    steps, trajectory, condition, empty = inverted
    editor = make_editor(model, source, target, settings, len(steps), (16, 16))
    with torch.no_grad():
        words = model.encode_text([target] * 2)
    return edit_latents(model, trajectory[-1], condition, words, [empty] * len(steps), steps, editor), editor


@pytest.mark.parametrize(
    'options', [dict(), dict(mode='refine'), dict(local_blend=False), dict(alpha=0.3, self_replace=0.2)]
)
def test_identical_texts_give_the_reconstruction(model, inverted, options):
    settings = EditSettings(**{**dict(alpha=0.0), **options})
    (same, edited), _ = run_edit(model, inverted, SOURCE, SOURCE, settings)
    assert torch.allclose(same, edited, atol=1e-5 * float(same.abs().max()))
    if not settings.alpha:
        steps, trajectory, condition, empty = inverted
        plain = go_back(model, trajectory[-1], condition, empty, steps, settings.guidance)
        assert torch.allclose(same, plain, atol=1e-4 * float(plain.abs().max())), 'the edit left its source alone'


def test_another_word_changes_the_image_and_replacing_maps_holds_it_back(model, inverted):
    def change(**options):
        settings = EditSettings(**{**dict(alpha=0.0, local_blend=False, weight=1.0), **options})
        (same, edited), _ = run_edit(model, inverted, SOURCE, TARGET, settings)
        return float((same - edited).norm())

    assert change(cross_replace=0.0, self_replace=0.0) > 0
    assert change(weight=1.0) != change(weight=3.0)
    steps, trajectory, _, empty = inverted
    (_, edited), _ = run_edit(
        model,
        inverted,
        SOURCE,
        TARGET,
        EditSettings(alpha=0, local_blend=False, weight=1.0, cross_replace=0.0, self_replace=0.0),
    )
    with torch.no_grad():
        free = go_back(model, trajectory[-1], model.encode_text([TARGET] * 2), empty, steps, 5.0)
    assert torch.allclose(edited, free, atol=1e-4 * float(free.abs().max())), 'nothing replaced: the other text alone'


def test_replaced_maps_are_those_of_the_source(sd):
    """By hand: replace takes all columns, refine those of common tokens, weights multiply the new word."""
    maps = torch.rand(4, 2, 64, 77, generator=torch.Generator().manual_seed(0)).softmax(-1)
    site = controlled_site(sd, 'attn2')
    editor = make_editor(sd, SOURCE, TARGET, EditSettings(weight=3.0), 10, (16, 16))
    out = editor.edit(maps, site)
    column = token_ids(sd, TARGET).index(token_ids(sd, 'rust')[1])
    factors = torch.ones(77)
    factors[column] = 3.0
    assert torch.equal(out[:3], maps[:3]) and torch.allclose(out[3], maps[2] * factors)
    longer = 'photo of a large rust defect image'
    editor = make_editor(sd, SOURCE, longer, EditSettings(mode='refine', weight=1.0), 10, (16, 16))
    out = editor.edit(maps, site)
    # start, photo, of, a | large, rust | defect, image, end, padding
    assert torch.equal(out[3][..., :4], maps[2][..., :4]) and torch.equal(out[3][..., 4:6], maps[3][..., 4:6])
    assert torch.equal(out[3][..., 6:9], maps[2][..., 5:8])
    editor.step = 10
    assert torch.equal(editor.edit(maps, site)[3], maps[3]), 'after its share of the steps nothing is replaced'
    inner, small = controlled_site(sd, 'attn1'), torch.rand(4, 2, 64, 64)
    editor.step = 0
    assert torch.equal(editor.edit(small, inner)[3], small[2])
    assert editor.wants(inner, 64) and not editor.wants(inner, 4096)
    editor.step = 8
    assert not editor.wants(inner, 64)


def controlled_site(model, layer):
    return site_of(next(n for n in model.unet.attn_processors if layer in n))


def test_local_blend_keeps_the_source_where_no_word_attends(sd):
    settings = EditSettings(blend_start=0.0, blend_factor=2, weight=1.0)
    editor = make_editor(sd, SOURCE, TARGET, settings, 4, (16, 16))
    maps = torch.full((4, 2, 64, 77), 1e-6)
    column = token_ids(sd, TARGET).index(token_ids(sd, 'rust')[1])
    grid = maps.view(4, 2, 8, 8, 77)
    grid[2, :, 2, 2, column] = 0.9  # source word attends at one place of the 8 x 8 map
    editor.edit(maps, controlled_site(sd, 'attn2'))
    source, edited = torch.zeros(1, 4, 16, 16), torch.ones(1, 4, 16, 16)
    out = editor.after_step(torch.cat([source, edited]))[1]
    assert out[:, 4:6, 4:6].eq(1).all() and out[:, 10:, 10:].eq(0).all() and out[:, :2].eq(0).all()
    assert 0.02 < float(out.mean()) < 0.3
    wrong = make_editor(sd, SOURCE, TARGET, EditSettings(blend_start=0.0, blend_factor=4), 4, (16, 16))
    wrong.edit(maps, controlled_site(sd, 'attn2'))
    with pytest.raises(ValueError, match=r'a scale at which the network attends .* got 4; it does so at \[2\]'):
        wrong.after_step(torch.cat([source, edited]))


def test_rli_limits(model):
    """alpha = 0 is the network; alpha = 1 is the network without self-attention, built here by hand."""
    latents, condition = torch.randn(2, 4, 16, 16), model.encode_text(['rust', 'dent'])
    with torch.no_grad():
        plain = model.predict(latents, 300, condition)
        with controlled(model, None, 0.0):
            assert torch.allclose(model.predict(latents, 300, condition), plain, atol=1e-5)
        with controlled(model, None, 1.0, ('up', 'mid', 'down')):
            without = model.predict(latents, 300, condition)
        with controlled(model, None, 1.0, ('up',)):
            up_only = model.predict(latents, 300, condition)
        with controlled(model, None, 0.5, ('up', 'mid', 'down')):
            half = model.predict(latents, 300, condition)
        before = model.unet.attn_processors
        model.unet.set_attn_processor({n: Identity() if 'attn1' in n else p for n, p in before.items()})
        expected = model.predict(latents, 300, condition)
        model.unet.set_attn_processor(before)
        assert torch.equal(model.predict(latents, 300, condition), plain), 'afterwards the network is as before'
    assert torch.allclose(without, expected, atol=1e-5) and not torch.allclose(without, plain, atol=1e-4)
    for other in (up_only, half):
        assert not torch.allclose(other, plain, atol=1e-5) and not torch.allclose(other, without, atol=1e-5)


class Identity:
    def __call__(self, attn, hidden_states, *others, **more):
        return hidden_states


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(alpha=1.5), r'`alpha` must be in \[0, 1\], got 1.5'),
        (dict(places=('top',)), "among down, mid, up, got 'top'"),
        (dict(cross_replace=2), '`cross_replace` must be in'),
        (dict(guidance=0.5), '`guidance`'),
    ],
)
def test_wrong_settings(options, message):
    with pytest.raises(ValueError, match=message):
        EditSettings(**options)


def test_words_of_unequal_length_are_named_with_a_way_out(sd):
    assert align(sd, SOURCE, TARGET).mode == 'replace'
    with pytest.raises(ValueError, match="'crack' has 1 and 'dents' 3 in .*--mode refine"):
        align(sd, SOURCE, SOURCE.replace('crack', 'dents'))
    with pytest.raises(ValueError, match='equally many words .* has 6 and .* 7'):
        align(sd, SOURCE, SOURCE.replace('crack', 'large rust'))
    found = align(sd, SOURCE, SOURCE.replace('crack', 'dents'), 'auto')
    assert found.mode == 'refine' and found.changed_target.sum() == 3 and found.changed_source.sum() == 1
    assert found.source[7:10].tolist() == [5, 6, 7] and found.carried[7:].all()
    assert align(sd, SOURCE, TARGET, 'auto').mode == 'replace'
    with pytest.raises(ValueError, match='one of replace, refine, auto'):
        align(sd, SOURCE, TARGET, 'swap')
    with pytest.raises(ValueError, match='at most 77 tokens'):
        align(sd, SOURCE, 'rust ' * 90, 'refine')


def test_places_of_words(sd):
    found = word_tokens(sd, 'photo of dents on metal', ['dents', 'metal'])
    assert found.nonzero()[:, 0].tolist() == [3, 4, 5, 7]
    with pytest.raises(ValueError, match="but 'hole' is not"):
        word_tokens(sd, 'photo of metal', ['hole'])


def test_map_sides():
    assert map_size(64, (16, 16)) == (8, 8) and map_size(96, (16, 24)) == (8, 12)
    with pytest.raises(ValueError, match='a scaled copy'):
        map_size(65, (16, 16))


@pytest.mark.slow
def test_checkpointing_changes_nothing(sd, tensors):
    settings, steps = EditSettings(alpha=0.1), DDIMSteps.of(sd, 2)
    plain = invert_images(sd, tensors, SOURCE, steps, NullTextSettings(2), settings)
    sd.unet.enable_gradient_checkpointing()
    again = invert_images(sd, tensors, SOURCE, steps, NullTextSettings(2), settings)
    sd.unet.disable_gradient_checkpointing()
    assert torch.allclose(plain.empties[-1].tokens, again.empties[-1].tokens, atol=1e-5)


def test_bf16_edits(pipelines, tensors):
    model, settings = load_model(pipelines['sdxl'], ModelOptions(dtype='bf16')), EditSettings()
    steps = DDIMSteps.of(model, 2)
    inversion = invert_images(model, tensors, SOURCE, steps, NullTextSettings(1), settings)
    assert inversion.noise.dtype == inversion.empties[0].tokens.dtype == torch.float32
    for images in edit_images(model, inversion, SOURCE, TARGET, steps, settings):
        assert images.dtype == torch.float32 and torch.isfinite(images).all()


def test_editing_is_deterministic(sd, tensors):
    settings, steps = EditSettings(), DDIMSteps.of(sd, 2)
    results = []
    for _ in range(2):
        inversion = invert_images(sd, tensors, SOURCE, steps, NullTextSettings(2), settings)
        results.append(edit_images(sd, inversion, SOURCE, TARGET, steps, settings))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert all(r.shape == tensors.shape and 0 <= r.min() and r.max() <= 1 for r in results[0])


@pytest.fixture()
def folder(tmp_path, images):
    for index in range(2):
        write_image(tmp_path / 'images' / f'{index}.png', images[0][index])
        write_image(tmp_path / 'labels' / f'{index}.png', images[1][index].astype(np.uint8))
    return tmp_path


def command(folder, pipelines, out, *more, kind='sd'):
    places = f'--model {pipelines[kind]} --images {folder}/images --labels {folder}/labels --out {folder}/{out}'
    return run(f'edit {places} --words rust dent --steps 2 --inner-steps 1 --device cpu', *more)


@pytest.mark.parametrize('kind', ['sd', pytest.param('sdxl', marks=pytest.mark.slow)])
def test_edit_command_makes_a_set_for_each_word(folder, pipelines, kind):
    assert command(folder, pipelines, 'a', '--batch-size', 2, '--keep-reconstructions', kind=kind) == 0
    for word in ('rust', 'dent'):
        manifest = Manifest(folder / 'a' / word)
        records = manifest.records()
        assert [r.id for r in records] == ['0', '1'] and manifest.settings()['edit']['alpha'] == 0.1
        table = list(csv.DictReader((folder / 'a' / word / 'report.csv').open()))
        assert [row['image'] for row in table] == ['0', '1', 'mean']
        for record, row in zip(records, table, strict=False):
            assert record.prompt == f'photo of a {word} defect image' and record.source_prompt == SOURCE
            assert Path(record.source_label).parent.name == 'labels' and record.mask is None
            original, edited = read_image(record.source), read_image(folder / 'a' / word / record.image)
            same = read_image(folder / 'a' / word / 'reconstructions' / f'{record.id}.png')
            for name, photo in (('edit', edited), ('reconstruction', same)):
                error = ((original.astype(float) - photo) ** 2).mean() / 255**2
                assert record.scores[f'psnr_{name}'] == pytest.approx(-10 * np.log10(error), abs=0.1)
                assert float(row[f'ssim_{name}']) == pytest.approx(record.scores[f'ssim_{name}'])
    assert json.loads((folder / 'a' / 'rust' / 'settings.json').read_text())['word'] == 'rust'


def test_a_stopped_edit_goes_on(folder, pipelines, monkeypatch):
    assert command(folder, pipelines, 'whole') == 0
    real, calls = edit_module.edit_images, []

    def stop(*arguments):
        calls.append(arguments[3])
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(edit_module, 'edit_images', stop)
    assert command(folder, pipelines, 'part') == 130
    monkeypatch.undo()
    calls.clear()
    monkeypatch.setattr(edit_module, 'edit_images', lambda *a: calls.append(a[3]) or real(*a))
    assert command(folder, pipelines, 'part') == 0
    assert len(calls) == 3, 'the finished word of the first image is not made again'
    for word in ('rust', 'dent'):
        assert len((folder / 'part' / word / 'manifest.jsonl').read_text().splitlines()) == 2
        for number in range(2):
            assert (folder / 'part' / word / 'images' / f'{number}.png').read_bytes() == (
                folder / 'whole' / word / 'images' / f'{number}.png'
            ).read_bytes()


def test_wrong_edits_are_named_before_any_work(folder, pipelines, capsys, monkeypatch):
    monkeypatch.setattr(edit_module, 'invert_images', lambda *a: pytest.fail('work was begun'))
    assert command(folder, pipelines, 'a', '--words', 'rust', 'dents') == 2
    assert "'crack' has 1 and 'dents' 3" in capsys.readouterr().err
    assert command(folder, pipelines, 'b', '--prompt', 'photo') == 2
    assert '`prompt` must hold {word} once' in capsys.readouterr().err
    (folder / 'labels' / '1.png').unlink()
    assert command(folder, pipelines, 'c') == 2
    assert 'has none for' in capsys.readouterr().err
    with pytest.raises(ValueError, match='different words, at least one'):
        EditPlan(words=())
    assert not any((folder / name).exists() for name in 'abc')


def test_out_of_memory_names_what_is_left_to_change(folder, pipelines, capsys, monkeypatch):
    def too_much(*arguments):
        raise torch.OutOfMemoryError('CUDA out of memory')

    monkeypatch.setattr(edit_module, 'invert_images', too_much)
    assert command(folder, pipelines, 'a', '--dtype', 'bf16') == 2
    text = capsys.readouterr().err
    assert 'editing 1 images' in text and '--batch-size' not in text and '--offload model' in text
