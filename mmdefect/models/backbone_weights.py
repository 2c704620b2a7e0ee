"""Put the backbone of a checkpoint into a network, and say exactly what fitted.

Names differ between libraries only by their prefix: ``backbone.`` in a classifier, ``timm_model.`` in a wrapper,
``context_path.backbone.`` inside BiSeNetV1. The prefixes that fit the most parameters are taken. Where the names have
nothing in common (``features.1.conv.0.0`` of torchvision's MobileNetV2, ``layer1.0.conv.0.conv`` of mmseg's) but all
shapes agree in their order, the order decides. A stem of another form (three 3x3 convolutions of ResNetV1c against one
7x7) cannot be carried over and is reported.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from mmengine.logging import print_log
from mmengine.runner.checkpoint import CheckpointLoader
from torch import Tensor, nn

from mmdefect.registry import WEIGHT_INITIALIZERS

Weights = Mapping[str, Tensor]


@dataclass(frozen=True)
class LoadReport:
    """What fitted."""

    source: str  # checkpoint
    matched: list[str]  # names in the network that were loaded
    missing: list[str]  # parameters and buffers of the network that the checkpoint does not have
    mismatched: list[tuple[str, tuple, tuple]]  # names with the shape in the checkpoint and in the network
    unused: list[str]  # names in the checkpoint that the network does not have
    share: float  # loaded share of the parameters of the network, by number of elements
    notes: list[str]  # known differences, explained

    def text(self) -> str:
        """Return the report in lines."""
        missing = _by_part(self.missing) if len(self.missing) > 12 else ', '.join(self.missing) or 'none'
        shapes = ', '.join(f'{n} {a} -> {b}' for n, a, b in self.mismatched) or 'none'
        lines = [
            f'backbone weights from {self.source}: {100 * self.share:.1f} % of the parameters loaded',
            f'  matched ({len(self.matched)}): {_by_part(self.matched)}',
            f'  missing ({len(self.missing)}): {missing}',
            f'  other shape ({len(self.mismatched)}): {shapes}',
            f'  unused ({len(self.unused)}): {_by_part(self.unused)}',
        ]
        return '\n'.join([*lines, *(f'  note: {note}' for note in self.notes)])


def load_backbone(network: nn.Module, checkpoint: str, min_share: float = 0.9) -> LoadReport:
    """Load the backbone of a checkpoint.

    Args:
        network: backbone, or a network that holds one inside.
        checkpoint: file of mmengine, or a plain dict of weights such as torchvision's; half precision is fine.
        min_share: least share of the parameters of ``network`` that must fit, in [0, 1]; else nothing is loaded.
    """
    if not 0 <= min_share <= 1:
        raise ValueError(f'`min_share` must lie in [0, 1], got {min_share}.')
    weights = read_weights(checkpoint)
    own = network.state_dict()
    before, into = _best_prefixes(weights, own)
    renamed = {into + name[len(before) :]: value for name, value in weights.items() if name.startswith(before)}
    parameters = {n: p.numel() for n, p in network.named_parameters()}
    fitting, share = _fitting(renamed, own, parameters)
    notes = []
    if share < min_share and (ordered := _by_order(weights, own)):
        renamed = ordered
        fitting, share = _fitting(renamed, own, parameters)
        notes.append('the names differ, so the weights were taken in their order; every shape agrees.')
    conv1 = f'{into}conv1.weight'
    if conv1 in renamed and conv1 not in own and any(n.startswith(f'{into}stem.') for n in own):
        notes.append(
            'the stem differs: the checkpoint has one 7x7 convolution (conv1, bn1), the network three of 3x3 '
            '(ResNetV1c), which keep their initialisation. Set the type of the backbone to ResNet to load all of it.'
        )
    report = LoadReport(
        checkpoint,
        sorted(fitting),
        [n for n in own if n not in renamed],
        [(n, tuple(v.shape), tuple(own[n].shape)) for n, v in renamed.items() if n in own and n not in fitting],
        [n for n in renamed if n not in own],
        share,
        notes,
    )
    if share < min_share:
        raise ValueError(
            f'at least {100 * min_share:.0f} % of the backbone must be loaded (`min_share`), but {100 * share:.1f} % '
            f'fits; take the same backbone, or lower `min_share`.\n{report.text()}'
        )
    with torch.no_grad():
        for name, value in fitting.items():
            own[name].copy_(value)
    return report


def read_weights(checkpoint: str) -> dict[str, Tensor]:
    """Return the backbone's weights in a checkpoint; those of a whole model without the rest of it."""
    content = CheckpointLoader.load_checkpoint(checkpoint, map_location='cpu', logger='silent')
    weights = content.get('state_dict', content) if isinstance(content, Mapping) else {}
    weights = {n.removeprefix('module.'): v for n, v in weights.items() if isinstance(v, Tensor)}
    if not weights:
        raise ValueError(
            f'{checkpoint} must hold weights, but no tensor was found in it; give a checkpoint of tools/train.py or a '
            'state dict.'
        )
    only = {n: v for n, v in weights.items() if n.startswith('backbone.')}
    return only or weights


def _fitting(renamed: Weights, own: Weights, parameters: Mapping[str, int]) -> tuple[Weights, float]:
    """Return the weights that have a place of their shape, and the share of the parameters that they make."""
    fitting = {n: v for n, v in renamed.items() if n in own and v.shape == own[n].shape}
    return fitting, sum(parameters.get(n, 0) for n in fitting) / max(1, sum(parameters.values()))


def _by_order(weights: Weights, own: Weights) -> Weights:
    """Return the weights under the network's names, taken one after the other; empty if one does not agree.

    Kind (``weight``, ``running_mean``) and shape must agree all along. The checkpoint may go on after the network's
    last one, as a classifier does after its backbone. Counters of batch norms are passed over: old files have none.
    """
    theirs, ours = ([n for n in names if not n.endswith('num_batches_tracked')] for names in (weights, own))
    pairs = list(zip(theirs, ours, strict=False))
    if not len(theirs) >= len(ours) > 0 or not all(
        t.rsplit('.', 1)[-1] == o.rsplit('.', 1)[-1] and weights[t].shape == own[o].shape for t, o in pairs
    ):
        return {}
    return {t: weights[t] for t in theirs[len(ours) :]} | {o: weights[t] for t, o in pairs}


def _best_prefixes(weights: Weights, own: Weights) -> tuple[str, str]:
    """Return the prefix to take off the checkpoint's names and the one to put before them."""
    votes: Counter[tuple[str, str]] = Counter()
    places: dict[tuple, list[str]] = {}  # by part and parameter
    for name in own:
        places.setdefault(tuple(name.split('.')[-2:]), []).append(name)
    for name, value in weights.items():
        for other in places.get(tuple(name.split('.')[-2:]), []):
            if own[other].shape == value.shape:
                votes[_before_common_end(name, other)] += value.numel()
    if not votes:
        return ('backbone.' if all(n.startswith('backbone.') for n in weights) else ''), ''
    return votes.most_common(1)[0][0]


def _before_common_end(name: str, other: str) -> tuple[str, str]:
    a, b = name.split('.'), other.split('.')
    while a and b and a[-1] == b[-1]:
        a.pop()
        b.pop()
    return ''.join(f'{p}.' for p in a), ''.join(f'{p}.' for p in b)


def _by_part(names: list[str]) -> str:
    """Return names as counts of their first two parts."""
    counts = Counter('.'.join(n.split('.')[:-1][:2]) or n for n in names)
    return ', '.join(f'{part} ({count})' for part, count in counts.items()) or 'none'


@WEIGHT_INITIALIZERS.register_module(name='CutPasteBackbone')
class CutPasteBackboneInit:
    """``init_cfg=dict(type='CutPasteBackbone', checkpoint=..., min_share=0.9)`` of a backbone."""

    def __init__(self, checkpoint: str, min_share: float = 0.9) -> None:
        self.checkpoint, self.min_share = checkpoint, min_share

    def __call__(self, module: nn.Module) -> None:
        """Load, and keep the parts of the module from initialising themselves afterwards."""
        report = load_backbone(module, self.checkpoint, self.min_share)
        loaded = {n.rsplit('.', 1)[0] for n in report.matched}
        for name, part in module.named_modules():
            if name and hasattr(part, 'init_cfg') and any(f'{n}.'.startswith(f'{name}.') for n in loaded):
                part.init_cfg = None
        print_log(report.text(), logger='current')

    def _get_init_info(self) -> str:
        return f'{type(self).__name__}: load from {self.checkpoint}'
