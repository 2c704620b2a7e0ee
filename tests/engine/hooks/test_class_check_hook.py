"""The hook stops a run whose model, data and checkpoint disagree, with a toy runner."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from mmdefect.engine.hooks import ClassCheckHook


class Head(torch.nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.num_classes = num_classes


def runner(heads, classes, auxiliary=()):
    model = torch.nn.Module()
    model.decode_head = heads
    if auxiliary:
        model.auxiliary_head = torch.nn.ModuleList(auxiliary)
    dataset = SimpleNamespace(metainfo=dict(classes=classes))
    loader = SimpleNamespace(dataset=dataset)
    return SimpleNamespace(
        model=model,
        train_dataloader=loader,
        test_dataloader=loader,
        _train_dataloader=loader,
        _test_dataloader=None,
        _val_dataloader=None,
        _load_from='old.pth',
    )


def test_matching_classes_pass():
    ClassCheckHook().before_train(runner(Head(3), ['normal', 'a', 'b'], [Head(3)]))


@pytest.mark.parametrize(('main', 'auxiliary', 'name'), [(19, 3, 'decode_head'), (3, 19, 'auxiliary_head.0')])
def test_a_head_with_other_classes_is_named(main, auxiliary, name):
    with pytest.raises(ValueError, match=f'`num_classes` of {name} must be 3 .* got 19'):
        ClassCheckHook().before_test(runner(Head(main), ['normal', 'a', 'b'], [Head(auxiliary)]))


def test_a_checkpoint_of_other_classes_is_refused():
    checkpoint = dict(meta=dict(dataset_meta=dict(classes=('normal', 'dent'))))
    with pytest.raises(ValueError, match=r"old.pth has \['normal', 'dent'\]"):
        ClassCheckHook().after_load_checkpoint(runner(Head(3), ['normal', 'a', 'b']), checkpoint)


@pytest.mark.parametrize('checkpoint', [dict(), dict(meta=None), dict(meta=dict(dataset_meta=dict()))])
def test_a_checkpoint_that_promises_no_classes_passes(checkpoint):
    ClassCheckHook().after_load_checkpoint(runner(Head(3), ['normal', 'a', 'b']), checkpoint)
