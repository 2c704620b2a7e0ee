"""Generating inside masks: order of blending, identity outside, samplers, seeds, batches, resuming."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mmdefect.diffusion import sample as sample_module
from mmdefect.diffusion.images import read_image, read_mask, write_image
from mmdefect.diffusion.manifest import Manifest
from mmdefect.diffusion.masks import MaskEntry, read_list
from mmdefect.diffusion.model import SCHEDULERS, OutOfMemory, load_model
from mmdefect.diffusion.sample import (
    BlendSettings,
    generate,
    paste_back,
    plan_samples,
    sample,
    sample_blended,
    sample_noise,
    to_uint8,
)

from .test_masks import run


def generators(count=2, first=0):
    return [torch.Generator().manual_seed(first + i) for i in range(count)]


@pytest.fixture(scope='module')
def sd(pipelines):
    return load_model(pipelines['sd'])


@pytest.fixture(scope='module')
def scene(sd):
    """Latents of two images, a mask, and texts."""
    clean = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(5))
    mask = torch.zeros(2, 1, 16, 16, dtype=torch.bool)
    mask[0, :, 2:8, 3:9] = True
    mask[1, :, 6:14, 1:6] = True
    return clean, mask, sd.encode_guided(['a crack', 'rust'])


@pytest.mark.parametrize('scheduler', ['ddim', 'euler', 'euler-a', 'heun'])
def test_blending_comes_before_each_step_and_after_the_last(sd, scene, scheduler, monkeypatch):
    """What the network sees outside the mask is the noised image; what comes out there is the image itself."""
    clean, mask, texts = scene
    seen, settings = [], BlendSettings(steps=4, guidance=3.0, scheduler=scheduler)
    original = sd.predict
    monkeypatch.setattr(
        sd, 'predict', lambda latents, step, text: seen.append((latents, step)) or original(latents, step, text)
    )
    result = sample_blended(sd, clean, mask, texts, generators(), settings)
    assert torch.equal(result.masked_select(~mask), clean.masked_select(~mask))
    assert not torch.allclose(result.masked_select(mask), clean.masked_select(mask), atol=0.1)
    reference = sd.make_scheduler(scheduler)
    reference.set_timesteps(4)
    assert [float(step) for _, step in seen] == [float(t) for t in reference.timesteps]
    streams = generators()
    sample_noise(streams, (4, 16, 16), 'cpu')  # the start
    latents, step = seen[0]
    noised = reference.add_noise(clean, sample_noise(streams, (4, 16, 16), 'cpu'), step.expand(2))
    expected = torch.where(mask, 0, reference.scale_model_input(noised, step))
    assert torch.allclose(latents[:2].masked_fill(mask, 0), expected, atol=1e-5)
    for latents, step in seen[1:]:  # fresh noise at each step, of the right strength
        outside = latents[:2].masked_select(~mask)
        sigma = float((1 - reference.alphas_cumprod[int(step)]).sqrt())
        expected = clean.masked_select(~mask) * float(reference.alphas_cumprod[int(step)].sqrt())
        assert 0.8 * sigma < float((outside - expected).std()) < 1.25 * sigma + 0.01


@pytest.mark.parametrize('scheduler', ['ddim', 'dpm++', 'euler', 'heun', 'lms', 'pndm', 'unipc'])
def test_with_everything_masked_it_is_the_plain_sampler(sd, scene, scheduler):
    """Oracle: the pipeline of diffusers with the same start."""
    clean, _, texts = scene
    everything = torch.ones(2, 1, 16, 16, dtype=torch.bool)
    mine = sample_blended(sd, clean, everything, texts, generators(), BlendSettings(5, 4.0, scheduler))
    pipe = sd.pipeline
    before, pipe.scheduler = pipe.scheduler, sd.make_scheduler(scheduler)
    try:
        theirs = pipe(
            prompt_embeds=texts.tokens[2:],
            negative_prompt_embeds=texts.tokens[:2],
            guidance_scale=4.0,
            num_inference_steps=5,
            latents=sample_noise(generators(), (4, 16, 16), 'cpu'),
            output_type='latent',
            height=32,
            width=32,
        ).images
    finally:
        pipe.scheduler = before
    assert torch.allclose(mine, theirs, atol=1e-3 * float(theirs.abs().max()))


@pytest.mark.parametrize('scheduler', SCHEDULERS)
def test_a_sample_depends_on_its_seed_and_on_no_batch_mate(sd, scene, scheduler):
    clean, mask, texts = scene
    settings = BlendSettings(3, 3.0, scheduler, eta=0.5)
    both = sample_blended(sd, clean, mask, texts, generators(), settings)
    alone = sample_blended(sd, clean[1:], mask[1:], texts[1::2], generators(1, 1), settings)
    assert torch.allclose(both[1:], alone, atol=1e-4 * float(both.abs().max()))
    other = sample_blended(sd, clean[1:], mask[1:], texts[1::2], generators(1, 9), settings)
    assert not torch.allclose(other, alone, atol=1e-2)


def test_every_kind_generates(model, images):
    shown, masks = images
    tensors = torch.from_numpy(shown[:2].transpose(0, 3, 1, 2).astype(np.float32) / 255)
    made = generate(
        model,
        tensors,
        torch.from_numpy(masks[:2])[:, None],
        model.encode_guided(['a crack', 'rust']),
        generators(),
        BlendSettings(2, 3.0),
    )
    assert made.shape == (2, 3, 32, 32) and made.dtype == torch.float32 and 0 <= made.min() and made.max() <= 1
    assert to_uint8(made).shape == (2, 32, 32, 3)


@pytest.mark.parametrize('seam', ['none', 'poisson'])
@pytest.mark.parametrize('size', [(32, 32), (16, 16)])
def test_pixels_outside_the_mask_are_identical(images, seam, size):
    shown, masks = images
    generated = np.random.default_rng(2).integers(0, 255, (*size, 3)).astype(np.uint8)
    for original, mask in zip(shown, masks, strict=True):
        copy = original.copy()
        pasted = paste_back(original, generated, mask, seam)
        assert (pasted[~mask] == original[~mask]).all() and (pasted[mask] != original[mask]).any()
        assert (original == copy).all() and pasted.dtype == np.uint8
    nothing = np.zeros((32, 32), bool)
    assert (paste_back(shown[0], generated, nothing, seam) == shown[0]).all()
    with pytest.raises(ValueError, match=r'size of the image, \(32, 32\), got \(8, 8\)'):
        paste_back(shown[0], generated, np.zeros((8, 8), bool))


def test_a_seam_removes_a_constant_step(images):
    """A generated image that is the original, but brighter, leaves no trace under the Poisson seam."""
    original, mask = images[0][0], images[1][0]
    pasted = paste_back(original, original + 30, mask, 'poisson')
    assert np.abs(pasted.astype(int) - original).max() <= 1


@pytest.fixture()
def folders(tmp_path, images):
    """Clean images on disk and two boxes for each of two types."""
    for index, photo in enumerate(images[0]):
        write_image(tmp_path / 'clean' / f'{index}.png', photo)
    assert (
        run(
            'masks --out',
            tmp_path / 'masks',
            '--category part --types crack dent --width 0.2 0.4 --height 0.2 0.4 --size 32 32 --count 5',
        )
        == 0
    )
    return tmp_path


def command(folders, pipelines, out, *more, kind='sd'):
    places = f'--model {pipelines[kind]} --images {folders}/clean --masks {folders}/masks --out {folders}/{out}'
    return run(f'sample {places} --steps 2 --guidance 3 --device cpu', *more)


def images_of(folder):
    return {p.name: p.read_bytes() for p in sorted((folder / 'images').iterdir())}


def test_sample_command_makes_a_complete_set(folders, pipelines):
    assert command(folders, pipelines, 'a', '--class-ids', 'crack=2', 'dent=1') == 0
    manifest = Manifest(folders / 'a')
    records = manifest.records()
    assert len(records) == 4 * 2 * 2 and len({r.id for r in records}) == 16 and len({r.seed for r in records}) == 16
    for record in records:
        source, made = read_image(record.source), read_image(folders / 'a' / record.image)
        mask = read_mask(folders / 'a' / record.mask, source.shape[:2])
        assert (made[~mask] == source[~mask]).all() and (made[mask] != source[mask]).any()
        assert record.prompt == record.defect_type and record.class_id == {'crack': 2, 'dent': 1}[record.defect_type]
        assert record.mask_kind == 'box' and record.model == str(pipelines['sd']) and record.negative_prompt == ''
    settings = manifest.settings()
    assert settings['steps'] == 2 and settings['scheduler'] == 'ddim' and settings['command'] == 'sample'
    held = {p.relative_to(folders / 'a').as_posix() for p in (folders / 'a').rglob('*') if p.is_file()}
    assert held == {
        'settings.json',
        'manifest.jsonl',
        '.manifest.lock',
        *(r.image for r in records),
        *(r.mask for r in records),
    }


def test_batch_size_changes_at_most_the_last_bit(folders, pipelines):
    assert command(folders, pipelines, 'one', '--batch-size', 1, '--types', 'dent') == 0
    assert command(folders, pipelines, 'five', '--batch-size', 5, '--types', 'dent') == 0
    for record in Manifest(folders / 'one').records():
        one, five = (read_image(folders / name / record.image).astype(int) for name in ('one', 'five'))
        assert np.abs(one - five).max() <= 1


def test_a_stopped_run_goes_on_without_doing_anything_twice(folders, pipelines, monkeypatch, capsys):
    assert command(folders, pipelines, 'whole', '--types', 'crack') == 0
    real, made = sample_module.write_image, []

    def stop_in_the_middle(path, photo):
        if Path(path).parent.name == 'images' and len(made) == 3:
            raise KeyboardInterrupt
        made.append(path) if Path(path).parent.name == 'images' else None
        real(path, photo)

    monkeypatch.setattr(sample_module, 'write_image', stop_in_the_middle)
    assert command(folders, pipelines, 'stopped', '--types', 'crack') == 130
    monkeypatch.undo()
    assert len(Manifest(folders / 'stopped').records()) == 3
    assert not list((folders / 'stopped').rglob('*.tmp*'))
    with open(folders / 'stopped' / 'manifest.jsonl', 'ab') as file:
        file.write(b'{"id": "cut o')  # a crash in the middle of a line
    before = {n: (folders / 'stopped' / 'images' / n).stat().st_mtime_ns for n in images_of(folders / 'stopped')}
    assert command(folders, pipelines, 'stopped', '--types', 'crack') == 0
    assert images_of(folders / 'stopped') == images_of(folders / 'whole')
    assert all((folders / 'stopped' / 'images' / n).stat().st_mtime_ns == t for n, t in before.items())
    lines = (folders / 'stopped' / 'manifest.jsonl').read_text().splitlines()
    assert len(lines) == 8 and len({json.loads(line)['id'] for line in lines}) == 8
    assert command(folders, pipelines, 'stopped', '--types', 'crack') == 0
    assert 'written: 0 images' in capsys.readouterr().out
    assert command(folders, pipelines, 'stopped', '--types', 'crack', '--guidance', 4) == 2
    assert '`guidance` was 3.0 and is 4.0 now' in capsys.readouterr().err


def test_a_lost_image_is_made_again(folders, pipelines):
    assert command(folders, pipelines, 'a', '--types', 'crack') == 0
    before = images_of(folders / 'a')
    (folders / 'a' / 'images' / next(iter(before))).unlink()
    assert command(folders, pipelines, 'a', '--types', 'crack') == 0
    assert images_of(folders / 'a') == before and len(Manifest(folders / 'a').records()) == len(before)


def test_two_processes_share_the_work_and_the_manifest(folders, pipelines):
    model = load_model(pipelines['sd'])
    jobs = plan_samples(
        sorted((folders / 'clean').iterdir()), folders / 'masks', read_list(folders / 'masks'), '{type}', 0
    )
    settings = BlendSettings(1, 1.0)
    made = [sample(model, jobs, folders / 'shared', settings, process=(rank, 2)) for rank in range(2)]
    assert made == [8, 8] and {r.id for r in Manifest(folders / 'shared').records()} == {j.id for j in jobs}


@pytest.mark.slow
def test_a_set_made_on_ray_is_the_one_made_here(folders, pipelines, capsys):
    pytest.importorskip('ray')
    assert command(folders, pipelines, 'here', '--types', 'crack', '--batch-size', 1) == 0
    assert (
        command(folders, pipelines, 'ray', '--types', 'crack', '--batch-size', 1, '--engine', 'ray', '--workers', 2)
        == 0
    )
    assert 'written: 8 images' in capsys.readouterr().out.splitlines()[-1]
    assert images_of(folders / 'ray') == images_of(folders / 'here')
    records = [{r.id: r for r in Manifest(folders / name).records()} for name in ('here', 'ray')]
    assert records[0] == records[1] and len(records[0]) == 8


def test_masks_fitted_to_a_image_stay_with_it(tmp_path):
    masks = [
        MaskEntry(f'part/dent/{s}-{n:04d}.png', 'part', 'dent', 'box', 0, f'clean/{s}.png')
        for s in 'ab'
        for n in range(3)
    ]
    jobs = plan_samples(['clean/a.png', 'clean/b.png'], tmp_path, masks, '{type}', 0, masks_per_image=2, samples=2)
    assert [(Path(j.image).stem, Path(j.entry.source).stem) for j in jobs] == [('a', 'a')] * 4 + [('b', 'b')] * 4
    with pytest.raises(ValueError, match='each was made for an image that is not among them'):
        plan_samples(['clean/c.png'], tmp_path, masks, '{type}', 0)
    with pytest.raises(ValueError, match="'a_dent_a-0000_0' comes twice"):
        plan_samples(['clean/a.png', 'other/a.png'], tmp_path, masks, '{type}', 0)
    with pytest.raises(ValueError, match=r"types of the masks, \['dent'\], got 'crack'"):
        plan_samples(['clean/a.png'], tmp_path, masks, '{type}', 0, types=['crack'])


def test_wrong_input_is_named(folders, pipelines, capsys):
    assert command(folders, pipelines, 'a', '--scheduler', 'fast') == 2
    assert '`scheduler` must be one of ddim, dpm++' in capsys.readouterr().err
    assert command(folders, pipelines, 'b', "--prompt 'a {token}'") == 2
    assert 'the token <crack> must have been learned, but the tokens given are none' in capsys.readouterr().err
    assert command(folders, pipelines, 'c', '--class-ids', 'crack=0') == 2
    assert 'TYPE=ID with ID at least 1' in capsys.readouterr().err
    write_image(folders / 'clean' / '0.png', np.zeros((40, 32, 3), np.uint8))
    assert command(folders, pipelines, 'd') == 2
    assert 'must have the size of its image, 32x40 (width x height), but it has 32x32' in capsys.readouterr().err
    assert command(folders, pipelines, 'e', '--resolution', 30, 30) == 2
    assert 'give --resolution 32 32' in capsys.readouterr().err
    assert not any((folders / name / 'images').exists() for name in 'abcde')


def test_out_of_memory_says_what_to_change(folders, pipelines, monkeypatch, capsys):
    def too_much(*arguments):
        raise torch.OutOfMemoryError('CUDA out of memory')

    monkeypatch.setattr(sample_module, 'generate', too_much)
    assert command(folders, pipelines, 'a', '--batch-size', 4) == 2
    assert '--batch-size 2 (now 4), --dtype bf16 (now fp32), --attention-slicing' in capsys.readouterr().err
    monkeypatch.setattr(sample_module, 'generate', lambda *a: torch.empty(2**46))
    with pytest.raises(OutOfMemory, match='must fit into memory'):
        model = load_model(pipelines['sd'])
        jobs = plan_samples([folders / 'clean' / '0.png'], folders / 'masks', read_list(folders / 'masks'), '{type}', 0)
        sample(model, jobs, folders / 'b', BlendSettings(1))


def test_a_full_disk_leaves_nothing_half_written(folders, pipelines, monkeypatch, capsys):
    import errno
    import os

    real = os.replace

    def full(source, target):
        if str(target).endswith('_1.png') or 'images' in str(target):
            raise OSError(errno.ENOSPC, 'No space left on device')
        real(source, target)

    monkeypatch.setattr('mmdefect.files.os.replace', full)
    assert command(folders, pipelines, 'a', '--types', 'dent') == 2
    assert 'it is full; free some space and start the same command again' in capsys.readouterr().err
    monkeypatch.undo()
    assert not Manifest(folders / 'a').records() and not list((folders / 'a').rglob('*.tmp*'))
    assert command(folders, pipelines, 'a', '--types', 'dent') == 0 and len(Manifest(folders / 'a').records()) == 8
