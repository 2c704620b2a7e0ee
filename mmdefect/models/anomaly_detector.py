"""A fitted anomaly detector: backbone, densities of normal embeddings, scales, threshold. One file holds all of it."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from mmdefect.files import replacing
from mmdefect.functional.density import Bank, Gaussian, KernelDensity, ScoreScale
from mmdefect.functional.heat_maps import decide_heat, grad_cam, upsample_cells, upsample_scores
from mmdefect.models.backbone_features import MEAN, STD, BackboneFeatures

#: Where a density lies: the pooled image, the cells of the feature map of one pass, patches seen one by one.
SPACES = ('image', 'fast', 'exact')
FORMAT = 'mmdefect-anomaly/1'
_DENSITIES = {'gaussian': Gaussian, 'kernel': KernelDensity, 'bank': Bank}
#: Quarter turns by how many of them there are.
QUARTERS = {1: (0,), 2: (0, 2), 4: (0, 1, 2, 3)}
_AUTOCAST = {'fp32': None, 'fp16': torch.float16, 'bf16': torch.bfloat16}


@dataclass(frozen=True)
class DetectorSettings:
    """What a detector is, apart from its weights and densities.

    ``density`` is ``'ledoit_wolf'``, ``'full'``, ``'kde'``, or ``'bank'`` (distance to the nearest of kept embeddings);
    ``score`` is ``'image'`` (the distance of the pooled embedding) or ``'heat'`` (the maximum of the heat map).
    ``turns`` is for parts that lie at any angle: 1, as it is; 2, upside down, too; 4, every quarter turn. The density
    is fitted on all of them, and scores and heat maps are means over them.
    """

    backbone: dict  # config, without ``init_cfg``
    layers: tuple[str, ...] = ()  # parts of the backbone that are read; none means its output
    size_hw: tuple[int, int] = (256, 256)  # that images are resized to
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    normalize: bool = True  # scale embeddings to length 1
    density: str = 'ledoit_wolf'
    score: str = 'image'
    patch: int = 32  # side in pixels, for heat maps
    stride: int = 4  # of the grid of patches in pixels
    turns: int = 1
    facts: dict = field(default_factory=dict)  # where it comes from: category, checkpoint and the like; plain values

    def __post_init__(self) -> None:
        valid = dict(density=('ledoit_wolf', 'full', 'kde', 'bank'), score=('image', 'heat'), turns=tuple(QUARTERS))
        for name, choices in valid.items():
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f'`{name}` must be one of {", ".join(map(str, choices))}, got {value!r}.')
        if self.turns == 4 and self.size_hw[0] != self.size_hw[1]:
            raise ValueError(f'`turns` must be 1 or 2 for images that are not square, got 4 for {tuple(self.size_hw)}.')


class AnomalyDetector(nn.Module):
    """Scores images by how far they lie from normal ones.

    ``densities`` are of some of :data:`SPACES`, ``scales`` of image scores (``'score'``) and heat maps (``'heat'``).
    """

    def __init__(
        self, settings: DetectorSettings, backbone: nn.Module, densities: dict | None = None, scales: dict | None = None
    ) -> None:
        super().__init__()
        self.settings = settings
        self.features = BackboneFeatures(backbone, settings.layers, settings.mean, settings.std, settings.normalize)
        self.densities, self.scales = densities or {}, scales or {}
        self.requires_grad_(False)

    @property
    def mode(self) -> str | None:
        """How heat maps are made: ``'exact'`` if a density of patches was fitted, else ``'fast'``, else ``None``."""
        return next((space for space in ('exact', 'fast') if space in self.densities), None)

    @property
    def quarters(self) -> tuple[int, ...]:
        """Quarter turns in which an image is seen."""
        return QUARTERS[self.settings.turns]

    def turned(self, images: Tensor) -> list[tuple[int, Tensor]]:
        """Return the images ``(B, C, H, W)`` in each of their turns, with the number of quarters."""
        return [(k, torch.rot90(images, k, (2, 3)) if k else images) for k in self.quarters]

    @torch.inference_mode()
    def embeddings(self, images: Tensor, space: str, precision: str = 'fp32', stride: int | None = None) -> Tensor:
        """Return embeddings of ``(B, 3, H, W)`` uint8 RGB: ``(B, D)``, or ``(B, rows, columns, D)`` of a heat map."""
        if precision not in _AUTOCAST:
            raise ValueError(f'`precision` must be one of {", ".join(_AUTOCAST)}, got {precision!r}.')
        half = _AUTOCAST[precision]
        with torch.autocast(images.device.type, half, enabled=half is not None):
            if space == 'image':
                return self.features.embed(self.features.prepare(images))
            if space == 'fast':
                return self.features.embed_map(images, self.settings.patch)
            return self.features.embed_patches(images, self.settings.patch, stride or self.settings.stride)

    def fit_rows(self, images: Tensor, spaces: Sequence[str], stride: int) -> dict[str, Tensor]:
        """Return the embeddings of each space, ``(B, ..., D)``; pooled image and feature map come from one pass."""
        if set(spaces) == {'image', 'fast'}:
            return dict(zip(('image', 'fast'), self.features.embed_with_map(images, self.settings.patch), strict=True))
        return {space: self.embeddings(images, space, stride=stride) for space in spaces}

    def heat_maps(self, images: Tensor, mode: str | None = None, density=None, precision: str = 'fp32') -> Tensor:
        """Return how far each pixel's surroundings lie from normal ones, ``(B, H, W)`` float32, raw distances."""
        mode = mode or self.mode
        density = density if density is not None else self.densities.get(mode)
        if density is None:
            raise ValueError(
                f'heat maps of mode {mode!r} need a density of that kind, but the detector has '
                f'{", ".join(self.densities) or "none"}; fit it with --localize {mode or "fast"}.'
            )
        maps = []
        for quarters, own in self.turned(images):
            cells = self.embeddings(own, mode, precision)
            scores = density.distance(cells.flatten(0, 2)).view(cells.shape[:3])
            if mode == 'fast':
                heat = upsample_cells(scores, tuple(own.shape[2:]), self.settings.patch)
            else:
                heat = upsample_scores(scores, self.settings.patch, self.settings.stride)
            maps.append(torch.rot90(heat, -quarters, (1, 2)))
        return torch.stack(maps).mean(0) if len(maps) > 1 else maps[0]

    def score_images(
        self, images: Tensor, mode: str | None = None, precision: str = 'fp32'
    ) -> tuple[Tensor, Tensor | None]:
        """Score a batch; a pure function of the images.

        Args:
            images: ``(B, 3, H, W)`` uint8 RGB of the size ``settings.size_hw``, on the device of the detector.
            mode: ``'exact'`` or ``'fast'`` heat maps; by default the more exact one that was fitted.
            precision: ``'fp32'``, ``'bf16'`` or ``'fp16'`` of the backbone; distances stay in float32.

        Returns:
            scores: ``(B,)`` float32, raw; ``scales['score']`` puts them on the scale with the threshold.
            heat maps: ``(B, H, W)`` float32, raw, for ``scales['heat']``; None if no heat map was fitted.
        """
        if images.dtype != torch.uint8 or tuple(images.shape[1:]) != (3, *self.settings.size_hw):
            size = '{}, {}'.format(*self.settings.size_hw)
            got = f'{tuple(images.shape)} {images.dtype}'
            raise ValueError(f'`images` must be (B, 3, {size}) uint8 RGB, got {got}; resize them first.')
        heat = self.heat_maps(images, mode, precision=precision) if self.mode or mode else None
        if self.settings.score == 'heat':
            if heat is None:
                raise ValueError('scores from heat maps need one; fit the detector with --localize fast or exact.')
            return heat.amax((1, 2)), heat
        density = self.densities['image']
        scores = [density.distance(self.embeddings(own, 'image', precision)) for _, own in self.turned(images)]
        return torch.stack(scores).mean(0), heat

    def on_scale(self, scores: Tensor, heat: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return what :meth:`score_images` gave on the scales: the rule by which tests, predictions and files decide.

        An image is an anomaly if its score is above ``scales['score'].threshold``, a pixel if its heat is, whose
        maximum is the score (:func:`~mmdefect.functional.heat_maps.decide_heat`).
        """
        values = self.scales['score'].normalize(scores)
        if heat is None:
            return values, None
        return values, decide_heat(self.scales['heat'].normalize(heat), values[:, None, None])

    def explain(self, images: Tensor, layer: str) -> Tensor:
        """Return by Grad-CAM which places of a layer raise the distance of the image, ``(B, H, W)`` in [0, 1]."""

        def score(inputs: Tensor) -> Tensor:
            return self.densities['image'].distance(self.features.embed(inputs))

        return grad_cam(self.features.backbone, layer, self.features.prepare(images), score)

    def save(self, path: str | os.PathLike) -> None:
        """Write one file of plain values and tensors, in one step."""
        kinds = {kind: name for name, kind in _DENSITIES.items()}
        content = dict(
            format=FORMAT,
            settings=asdict(self.settings),
            backbone=self.features.backbone.state_dict(),
            densities={space: dict(kind=kinds[type(d)], **d.state()) for space, d in self.densities.items()},
            scales={name: scale.state() for name, scale in self.scales.items()},
        )
        with replacing(path) as temporary:
            torch.save(content, temporary)

    @classmethod
    def load(cls, path: str | os.PathLike) -> AnomalyDetector:
        """Read a file of :meth:`save`; nothing but plain values and tensors is unpickled."""
        remedy = 'make one with tools/anomaly.py fit'
        if not Path(path).is_file():
            raise FileNotFoundError(f'{path} must be a fitted detector, but there is no such file; {remedy}.')
        content = torch.load(path, map_location='cpu', weights_only=True)
        if not isinstance(content, dict) or content.get('format') != FORMAT:
            raise ValueError(f'{path} must be a fitted detector ({FORMAT}), but it is another file; {remedy}.')
        fields = {k: tuple(v) if isinstance(v, list) else v for k, v in content['settings'].items()}
        settings = DetectorSettings(**fields)
        backbone = build_backbone(settings.backbone)
        backbone.load_state_dict(content['backbone'])
        densities = {space: _DENSITIES[s.pop('kind')].from_state(s) for space, s in content['densities'].items()}
        scales = {name: ScoreScale(**state) for name, state in content['scales'].items()}
        return cls(settings, backbone, densities, scales)


def build_backbone(config: dict | str, seed: int = 0) -> nn.Module:
    """Build a backbone in evaluation mode, with the weights that its ``init_cfg`` names; missing ones are an error.

    Without one its random weights depend on the seed alone.
    """
    from mmdefect.models.backbone_weights import load_backbone
    from mmdefect.models.cutpaste_classifier import backbone_config
    from mmdefect.registry import MODELS, init_default_scope

    init_default_scope('mmseg')
    config = backbone_config(config)
    init = config.get('init_cfg') or {}
    pretrained = isinstance(init, dict) and init.get('type') == 'Pretrained'
    if pretrained:
        del config['init_cfg']
    logging.disable(logging.INFO)  # mmengine lists every parameter
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            backbone = MODELS.build(config)
            if hasattr(backbone, 'init_weights'):
                backbone.init_weights()
    finally:
        logging.disable(logging.NOTSET)
    if pretrained:
        try:
            load_backbone(backbone, init['checkpoint'])
        except OSError as err:  # also what torch.hub raises without a network
            raise FileNotFoundError(
                f'the backbone must start from the weights {init["checkpoint"]}, but they cannot be had ({err}); give '
                f'a trained --checkpoint, name a file with --cfg-options model.backbone.init_cfg.checkpoint=PATH, or '
                f'fill {torch.hub.get_dir()}/checkpoints on a machine with a network.'
            ) from err
    backbone.eval()
    return backbone


def stack_images(images: Sequence) -> Tensor:
    """Return ``(B, 3, H, W)`` uint8 of ``(H, W, 3)`` uint8 RGB arrays of one size."""
    return torch.stack([torch.from_numpy(image.transpose(2, 0, 1).copy()) for image in images])
