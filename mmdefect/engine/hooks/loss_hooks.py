"""What the losses need before the first iteration: heads that start at the class frequencies, and weights of samples.

With 99.8 % background and equal odds, the first hundreds of iterations are spent on learning that nearly everything is
background. A bias of ``log prior`` (softmax) or ``log prior / (1 - prior)`` (sigmoid) says so before the first one
(Lin et al., "Focal Loss for Dense Object Detection", 2017, section 4.1).
"""

import math
from collections.abc import Sequence

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import nn

from mmdefect.datasets.presence import class_frequencies
from mmdefect.engine.hooks.model_hooks import unwrapped
from mmdefect.models.losses import attach_label_extras
from mmdefect.registry import HOOKS

#: Last layers of mmseg's heads, by attribute.
CLASSIFIERS = ('conv_seg', 'cls_seg', 'aux_cls_seg', 'i_cls_seg', 'p_cls_seg')


@HOOKS.register_module()
class ClassPriorHook(Hook):
    """Set the bias of the last layer of every head to the class prior, once, before a fresh training.

    Runs that start from a checkpoint and heads of another number of classes (edge heads) are left alone.

    Args:
        prior: share of the pixels of each class, the normal class first; ``None`` counts them in the training set.
        floor: smallest share of a class, so that a class without pixels has a finite bias.
        max_images: most label files that are read when counting, spread evenly over the set.
    """

    def __init__(self, prior: Sequence[float] | None = None, floor: float = 1e-4, max_images: int = 500) -> None:
        if prior is not None and (min(prior) < 0 or not math.isclose(sum(prior), 1, abs_tol=1e-3)):
            raise ValueError(f'`prior` must be shares that add up to 1, got {list(prior)}.')
        if not 0 < floor < 0.5:
            raise ValueError(f'`floor` must lie in (0, 0.5), got {floor}.')
        self.prior, self.floor, self.max_images = prior, floor, max_images

    def before_train(self, runner: Runner) -> None:
        """Set the biases."""
        if runner.iter > 0 or runner._resume or runner._load_from is not None:
            runner.logger.info('Class prior: the weights come from a checkpoint and keep their biases.')
            return
        prior = self.prior
        if prior is None:
            dataset = runner.train_dataloader.dataset
            prior = class_frequencies(dataset, len(dataset.metainfo['classes']), self.max_images)
        layers = set_class_prior(unwrapped(runner), prior, self.floor)
        runner.logger.info('Class prior %s set in %s.', [round(p, 6) for p in prior], ', '.join(layers))


def set_class_prior(model: nn.Module, prior: Sequence[float], floor: float = 1e-4) -> list[str]:
    """Set the bias of the last layer of every decode and auxiliary head of a segmentor; return the layers' names.

    ``prior`` is the share of the pixels of each class, the normal class first; ``floor`` the smallest share.
    """
    shares = torch.tensor(prior, dtype=torch.float64).clamp_min(floor)
    shares = shares / shares.sum()
    done = []
    for name, layer in _classifiers(model):
        if layer.out_channels == 1 and len(shares) == 2:
            bias = torch.logit(shares[1:])
        elif layer.out_channels != len(shares):
            continue
        else:
            bias = torch.logit(shares) if _is_sigmoid(model, name) else shares.log()
        with torch.no_grad():
            layer.bias.copy_(bias)
        done.append(name)
    if not done:
        raise ValueError(
            f'a head must end in a layer of {len(shares)} outputs with a bias (one of {CLASSIFIERS}), but '
            f'{type(model).__name__} has none; remove ClassPriorHook for this model.'
        )
    return done


def _classifiers(model: nn.Module) -> list[tuple[str, nn.Conv2d]]:
    """Last layers of the heads: by name, or the last of a sequence that has the classes as outputs."""
    found = []
    for name, module in model.named_modules():
        if name.startswith(('decode_head', 'auxiliary_head')) and name.rsplit('.', 1)[-1] in (*CLASSIFIERS, 'p_head'):
            layer = module if isinstance(module, nn.Conv2d) else [*module.modules()][-1]
            if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                found.append((name, layer))
    return found


def _is_sigmoid(model: nn.Module, name: str) -> bool:
    """Whether the first loss of the head that owns ``name`` reads its channels as independent."""
    head = model.get_submodule(name.rsplit('.', 1)[0])
    loss = getattr(head, 'loss_decode', None)
    loss = loss[0] if isinstance(loss, nn.ModuleList) else loss
    loss = getattr(loss, 'losses', [loss])[0]  # inside SumLoss
    loss = getattr(loss, 'loss', loss)  # inside WeightedSampleLoss
    return type(loss).__name__ == 'SigmoidFocalLoss' or bool(getattr(loss, 'use_sigmoid', False))


@HOOKS.register_module()
class LabelExtrasHook(Hook):
    """Bring weights and box marks of the samples to the losses: :func:`~mmdefect.models.losses.attach_label_extras`."""

    def before_train(self, runner: Runner) -> None:
        """Attach; a model whose losses ask for nothing is an error of the config."""
        if attach_label_extras(unwrapped(runner)) is None:
            raise ValueError(
                'LabelExtrasHook must have a loss to serve (WeightedSampleLoss, or WeakBoxLoss with `mixed=True`), but '
                'the heads have none; set such a loss or remove the hook.'
            )
