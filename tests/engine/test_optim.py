"""Mixed precision on the CPU: what runs in bfloat16, what does not, and that it learns the same."""

from __future__ import annotations

import torch
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from torch import nn

from mmdefect.registry import OPTIM_WRAPPERS
from tests.helpers.bilevel import tiny_config, write_parts


def wrapper_of(model, **kwargs):
    init_default_scope('mmseg')
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    return OPTIM_WRAPPERS.build(dict(type='Bfloat16OptimWrapper', optimizer=optimizer, **kwargs))


def test_products_are_bfloat16_and_everything_that_is_kept_is_float32():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    wrapper = wrapper_of(model)
    with wrapper.optim_context(model):
        out = model(torch.rand(2, 3, 8, 8))
        loss = nn.functional.cross_entropy(out, torch.ones(2, 6, 6, dtype=torch.long))
    assert out.dtype == torch.bfloat16 and loss.dtype == torch.float32
    wrapper.update_params(loss)
    assert (
        {p.dtype for p in model.parameters()}
        == {b.dtype for b in model.buffers() if b.is_floating_point()}
        == {torch.float32}
    )
    assert not torch.is_autocast_enabled('cpu') and model(torch.rand(1, 3, 8, 8)).dtype == torch.float32


def test_an_update_is_that_of_float32_up_to_rounding():
    grads = []
    for half in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 2, 1))
        images, label = torch.rand(4, 3, 16, 16), torch.randint(0, 2, (4, 16, 16))
        if half:
            with wrapper_of(model).optim_context(model):
                loss = nn.functional.cross_entropy(model(images), label)
        else:
            loss = nn.functional.cross_entropy(model(images), label)
        loss.backward()
        grads.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert torch.nn.functional.cosine_similarity(*grads, dim=0) > 0.99
    assert not torch.equal(*grads)


def test_gradients_are_accumulated_as_by_the_base_class():
    model = nn.Linear(2, 1)
    wrapper = wrapper_of(model, accumulative_counts=2)
    wrapper.initialize_count_status(model, 0, 4)
    before = model.weight.detach().clone()
    for updated in (False, True):
        with wrapper.optim_context(model):
            loss = model(torch.ones(1, 2)).float().sum()
        wrapper.update_params(loss)
        assert torch.equal(model.weight, before) != updated


def test_a_bilevel_training_takes_its_inner_steps_so(tmp_path, monkeypatch):

    monkeypatch.setenv('MMDEFECT_CACHE', str(tmp_path / 'cache'))
    cfg = tiny_config(write_parts(tmp_path / 'data'), tmp_path / 'run', 4)
    cfg.optim_wrapper.type = 'Bfloat16OptimWrapper'
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert runner.iter == 4 and runner.train_loop.outer_steps >= 1
    assert all(torch.isfinite(p).all() for p in runner.model.parameters())
