"""Textual inversion: what the loss is, what it trains, and going on after a stop."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from mmdefect.diffusion.images import mask_tensor, read_image, shrink_mask, write_image
from mmdefect.diffusion.learn import (
    TEMPLATES,
    InversionBatch,
    LearnSettings,
    SupportImages,
    TokenInversion,
    learn_token,
    masked_noise_loss,
    noise_target,
)
from mmdefect.diffusion.model import ModelOptions, load_model
from mmdefect.diffusion.sample import BlendSettings
from mmdefect.diffusion.support import Candidate, read_support, write_support
from mmdefect.diffusion.tokens import load_tokens, start_vectors

from .test_masks import ROOT, run

QUICK = dict(steps=4, batch_size=2, size_hw=(32, 32), preview_every=0, checkpoint_every=2)


@pytest.fixture(scope='module')
def shots(images):
    return list(zip(*images, strict=True))


def support_images(shots, batch_size):
    return SupportImages(shots, '<crack>', LearnSettings(size_hw=(32, 32), batch_size=batch_size))


def test_loss_by_hand():
    predicted, target = torch.zeros(2, 3, 4, 4), torch.ones(2, 3, 4, 4)
    target[1] = 2
    mask = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    mask[0, 0, 0, :2] = True
    mask[1, 0, 1, 1] = True
    assert masked_noise_loss(predicted, target, mask) == (1 + 4) / 2, 'the mean square in each mask'
    assert masked_noise_loss(predicted, target, mask, 'none') == pytest.approx((2 * 1 + 1 * 4) / 32)
    assert masked_noise_loss(predicted, target, mask & False) == 0
    target[~mask.expand_as(target)] = 99
    assert masked_noise_loss(predicted, target, mask) == 2.5, 'what lies outside does not count'
    with pytest.raises(ValueError, match='must have the size of the latents'):
        masked_noise_loss(predicted, target, mask[..., :2])


def test_one_pixel_survives_on_the_latent_grid():
    mask = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
    mask[0, 0, 13, 50] = True
    assert shrink_mask(mask, (8, 8)).nonzero().tolist() == [[0, 0, 1, 6]]
    assert mask_tensor(mask[0, 0].numpy(), (16, 16)).sum() == 1


@pytest.mark.parametrize('prediction', ['epsilon', 'v_prediction'])
def test_targets_are_those_of_diffusers(prediction):
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(beta_schedule='scaled_linear', prediction_type=prediction)
    clean, noise, steps = torch.randn(2, 4, 4, 4), torch.randn(2, 4, 4, 4), torch.tensor([10, 700])
    noisy, target = noise_target(clean, noise, scheduler.alphas_cumprod[steps], prediction)
    assert torch.allclose(noisy, scheduler.add_noise(clean, noise, steps), atol=1e-6)
    expected = noise if prediction == 'epsilon' else scheduler.get_velocity(clean, noise, steps)
    assert torch.allclose(target, expected, atol=1e-6)


def test_only_the_token_learns(model, shots, tmp_path):
    modules = {'unet': model.unet, 'vae': model.vae, **{f'text{i}': e for i, e in enumerate(model.text_encoders)}}
    before = {name: {k: v.clone() for k, v in m.state_dict().items()} for name, m in modules.items()}
    done = learn_token(model, shots, 'crack', tmp_path, LearnSettings(**QUICK, vectors=2), say=lambda line: None)
    for name, module in modules.items():
        for key, value in module.state_dict().items():
            assert torch.equal(value, before[name][key]), (name, key)
        assert all(p.grad is None for p in module.parameters())
    bank = load_tokens(done, model)
    for learned, start in zip(bank.vectors, start_vectors(model, 'defect', 2), strict=True):
        assert learned.shape == start.shape and (learned != start).any(1).all()
    lines = (tmp_path / 'progress.csv').read_text().splitlines()
    assert [line.split(',')[0] for line in lines] == ['step', '1', '2', '3', '4']
    assert not (tmp_path / 'checkpoint.pt').exists()


def test_bf16_learns_float32_vectors(pipelines, shots, tmp_path):
    model = load_model(pipelines['sdxl'], ModelOptions(dtype='bf16'))
    done = learn_token(
        model,
        shots,
        'crack',
        tmp_path,
        LearnSettings(**{**QUICK, 'steps': 2, 'preview_every': 2}),
        preview=BlendSettings(1, 2.0),
        say=lambda line: None,
    )
    for learned, start in zip(load_tokens(done, model).vectors, start_vectors(model, 'defect', 1), strict=True):
        assert learned.dtype == torch.float32 and (learned != start).any()
    assert (tmp_path / 'previews' / '000002.png').is_file()


def test_a_full_disk_keeps_the_last_checkpoint(pipelines, shots, tmp_path, monkeypatch):
    import errno
    import os as system

    real = system.replace

    def full(source, target):
        if str(target).endswith('token.safetensors'):
            raise OSError(errno.ENOSPC, 'No space left on device')
        real(source, target)

    settings = LearnSettings(**{**QUICK, 'steps': 3})
    monkeypatch.setattr('mmdefect.files.os.replace', full)
    with pytest.raises(OSError, match='must have room for .*token.safetensors'):
        learn_token(load_model(pipelines['sd']), shots, 'crack', tmp_path, settings, say=lambda line: None)
    monkeypatch.undo()
    assert (tmp_path / 'checkpoint.pt').is_file() and not list(tmp_path.glob('.*.tmp*'))
    assert learn_token(load_model(pipelines['sd']), shots, 'crack', tmp_path, settings, say=lambda line: None).is_file()


def test_loss_falls_on_one_batch(pipelines, shots):
    """The vectors alone can lower the loss of a fixed batch."""
    model = load_model(pipelines['sd'])
    with torch.no_grad():  # a random network hardly listens to its text; make this one listen
        for name, weight in model.unet.named_parameters():
            if 'attn2' in name:
                weight.mul_(6)
    inversion = TokenInversion(model, '<crack>', start_vectors(model, 'defect', 2), 'area')
    batch = support_images(shots, 4).sample(0, (4, 16, 16), 1000)
    optimizer = torch.optim.AdamW(inversion.parameters(), 0.1)
    losses = []
    for _ in range(12):
        losses.append(inversion(batch))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < losses[0] - 1e-3


def test_nothing_outside_the_mask_teaches(pipelines, shots):
    """Latents outside the mask reach the loss only through the network: the target there does not."""
    model = load_model(pipelines['sd'])
    inversion = TokenInversion(model, '<crack>', start_vectors(model, 'defect', 1), 'area')
    batch = support_images(shots, 2).sample(0, (4, 16, 16), 1000)
    nowhere = InversionBatch(batch.images, batch.masks & False, batch.texts, batch.steps, batch.noise)
    inversion(nowhere).backward()
    assert not inversion.vectors[0].grad.any()
    inversion(batch).backward()
    assert inversion.vectors[0].grad.any()


def test_a_stopped_run_ends_where_the_whole_one_does(pipelines, shots, tmp_path, monkeypatch):
    import mmdefect.diffusion.learn as learn_module

    settings = LearnSettings(**QUICK)
    whole = learn_token(
        load_model(pipelines['sd']), shots, 'crack', tmp_path / 'whole', settings, say=lambda line: None
    )
    real = learn_module._update

    def stop(*arguments):
        if arguments[-1] == 3:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(learn_module, '_update', stop)
    with pytest.raises(KeyboardInterrupt):
        learn_token(load_model(pipelines['sd']), shots, 'crack', tmp_path / 'part', settings, say=lambda line: None)
    monkeypatch.undo()
    assert (tmp_path / 'part' / 'checkpoint.pt').is_file() and not list((tmp_path / 'part').glob('.*.tmp*'))
    part = learn_token(load_model(pipelines['sd']), shots, 'crack', tmp_path / 'part', settings, say=lambda line: None)
    assert part.read_bytes() == whole.read_bytes()
    assert (tmp_path / 'part' / 'progress.csv').read_text() == (tmp_path / 'whole' / 'progress.csv').read_text()
    lines = []
    learn_token(load_model(pipelines['sd']), shots, 'crack', tmp_path / 'part', settings, say=lines.append)
    assert 'learned already' in lines[0]
    with pytest.raises(ValueError, match='`seed` was 0 and is 1 now'):
        learn_token(load_model(pipelines['sd']), shots, 'crack', tmp_path / 'part', LearnSettings(**QUICK, seed=1))


def test_accumulated_parts_equal_one_large_batch(pipelines, shots, tmp_path):
    """Two halves accumulate the gradient of the mean: checked on gradients, not on what Adam makes of them."""
    model = load_model(pipelines['sd'])
    inversion = TokenInversion(model, '<crack>', start_vectors(model, 'defect', 1), 'area')
    data = support_images(shots, 2)
    halves = [data.sample(number, (4, 16, 16), 1000) for number in range(2)]
    one, two = halves
    whole = InversionBatch(
        torch.cat([one.images, two.images]),
        torch.cat([one.masks, two.masks]),
        [*one.texts, *two.texts],
        torch.cat([one.steps, two.steps]),
        torch.cat([one.noise, two.noise]),
    )
    (expected,) = torch.autograd.grad(inversion(whole), [inversion.vectors[0]])
    parts = sum(torch.autograd.grad(inversion(half) / 2, [inversion.vectors[0]])[0] for half in halves)
    assert torch.allclose(parts, expected, atol=1e-6)
    assert learn_token(
        model, shots, 'crack', tmp_path, LearnSettings(**{**QUICK, 'steps': 2}, accumulate=2), say=lambda line: None
    ).is_file()


def test_batches_are_a_function_of_seed_and_number(shots):
    data = support_images(shots, 3)
    one, same, other = (data.sample(n, (4, 16, 16), 1000) for n in (7, 7, 8))
    assert torch.equal(one.noise, same.noise) and one.texts == same.texts and torch.equal(one.images, same.images)
    assert not torch.equal(one.noise, other.noise)
    for image, mask in zip(one.images, one.masks, strict=True):  # spots stay in their masks when flipped
        assert image[:, mask[0]].mean() > image[:, ~mask[0]].mean() + 0.2
    assert all(text.count('<crack>') == 1 for text in one.texts)


def test_templates_hold_one_place():
    LearnSettings(templates=TEMPLATES)
    assert len(set(TEMPLATES)) == len(TEMPLATES) > 20
    with pytest.raises(ValueError, match='hold {} once'):
        LearnSettings(templates=['a photo'])


@pytest.mark.parametrize('change', [dict(steps=0), dict(learning_rate=0), dict(normalise='sum'), dict(vectors=0)])
def test_wrong_settings(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        LearnSettings(**change)


@pytest.fixture()
def support(tmp_path, images):
    chosen = []
    for index, image in enumerate(images[0][:2]):
        write_image(tmp_path / 'raw' / f'{index}.png', image)
        chosen.append(Candidate('crack', 1, str(tmp_path / 'raw' / f'{index}.png'), f'{index}.png', str(index)))
    return write_support(tmp_path / 'support', chosen, list(images[1][:2]), 0, {}).folder


def options(support, pipelines, kind='sd'):
    return [
        str(a)
        for a in (
            '--model',
            pipelines[kind],
            '--support',
            support,
            '--steps',
            2,
            '--batch-size',
            2,
            '--resolution',
            32,
            32,
            '--device',
            'cpu',
        )
    ]


@pytest.mark.parametrize('kind', [pytest.param('ldm', marks=pytest.mark.slow), 'sdxl'])
def test_learn_then_sample_by_command(support, pipelines, tmp_path, images, kind):
    assert (
        run(
            'learn',
            *options(support, pipelines, kind),
            '--out',
            tmp_path / 'tokens',
            '--preview-every 1 --preview-steps 2 --vectors 2',
        )
        == 0
    )
    sheet = read_image(tmp_path / 'tokens' / 'crack' / 'previews' / '000002.png')
    assert sheet.shape == (64, 64, 3)
    outside = ~np.concatenate(list(images[1][:2]), 1)
    assert (sheet[:32][outside] == sheet[32:][outside]).all() and (sheet[:32] != sheet[32:]).any()
    write_image(tmp_path / 'clean' / 'a.png', images[0][3])
    assert (
        run(
            'masks --out',
            tmp_path / 'masks',
            '--category part --types crack --width 0.2 0.4 --height 0.2 0.4 --size 32 32 --count 2',
        )
        == 0
    )
    assert (
        run(
            'sample --model',
            pipelines[kind],
            '--images',
            tmp_path / 'clean',
            '--masks',
            tmp_path / 'masks',
            '--out',
            tmp_path / 'made',
            '--tokens',
            tmp_path / 'tokens',
            '--steps 2 --device cpu',
        )
        == 0
    )
    records = [json.loads(line) for line in (tmp_path / 'made' / 'manifest.jsonl').read_text().splitlines()]
    assert [r['prompt'] for r in records] == ['a photo of <crack>'] * 2


def test_learn_command_names_wrong_input(support, pipelines, tmp_path, capsys):
    assert run('learn', *options(support, pipelines), '--out', tmp_path / 't', '--types', 'hole') == 2
    assert 'must be one of the support set' in capsys.readouterr().err
    assert run('learn', *options(support, pipelines), '--out', tmp_path / 't', '--init-word', '') == 2
    assert '`--init-word` must be known' in capsys.readouterr().err
    write_image(support / 'crack' / '000_mask.png', np.zeros((32, 32), bool))
    assert run('learn', *options(support, pipelines), '--out', tmp_path / 't') == 2
    assert 'must show the defect, but it is empty' in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_learn_one_token(support, pipelines, tmp_path):
    """Real processes that accelerate joins; gradients are averaged. (Its launcher starts only one on the CPU.)"""
    command = [
        sys.executable,
        '-m',
        'torch.distributed.run',
        '--standalone',
        '--nproc_per_node',
        '2',
        str(Path(ROOT) / 'tools' / 'generate.py'),
        'learn',
        *options(support, pipelines),
        '--out',
        str(tmp_path / 'tokens'),
        '--preview-every',
        '0',
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=300,
        cwd=ROOT,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count('written:') == 1
    settings = json.loads((tmp_path / 'tokens' / 'crack' / 'settings.json').read_text())
    assert settings['processes'] == 2
    model = load_model(pipelines['sd'])
    two = load_tokens(tmp_path / 'tokens' / 'crack' / 'token.safetensors', model)
    start = start_vectors(model, 'defect', 1)[0]
    assert (two.vectors[0] != start).any()
    # the first update of AdamW moves by the sign of the mean gradient: recompute it with one process
    inversion = TokenInversion(model, '<crack>', [start], 'area')
    data = support_images(read_support(support).load('crack'), 2)
    optimizer = torch.optim.AdamW(inversion.parameters(), 5e-3, weight_decay=0.0)
    for step in range(2):
        optimizer.zero_grad()
        for rank in range(2):
            (inversion(data.sample(2 * step + rank, (4, 16, 16), 1000)) / 2).backward()
        optimizer.step()
    assert torch.allclose(inversion.vectors[0], two.vectors[0], atol=1e-5)
