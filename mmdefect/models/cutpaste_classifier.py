"""The network of CutPaste: views of images in one batch, any backbone, a projection and a linear classifier.

Named in ``custom_imports`` of the CutPaste configs and not imported with the other models: mmpretrain is needed here
and nowhere else. Head and classifier are thrown away after training.
"""

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import partial

import torch
import torch.nn.functional as F
from mmengine.model import BaseDataPreprocessor, BaseModule
from mmengine.structures import BaseDataElement
from mmpretrain.models import ImageClassifier
from torch import Tensor, nn

from mmdefect.extras import require
from mmdefect.models.backbone_features import MEAN, STD, pool
from mmdefect.registry import MODELS

#: Short names of :func:`backbone_config`.
BACKBONES = {
    **{f'resnet{depth}': dict(type='mmpretrain.ResNet', depth=depth) for depth in (18, 34, 50)},
    'mobilenet_v2': dict(type='mmpretrain.MobileNetV2'),
    'mobilenet_v3_large': dict(type='mmpretrain.MobileNetV3', arch='large'),
    **{f'efficientnet_b{k}': dict(type='mmpretrain.EfficientNet', arch=f'b{k}') for k in range(9)},
    'convnext_tiny': dict(type='mmpretrain.ConvNeXt', arch='tiny'),
}


def backbone_config(backbone: str | Mapping) -> dict:
    """Return the config of a backbone by name: ``resnet18``, ``timm/regnety_002`` or a class such as ``ConvNeXt``."""
    if not isinstance(backbone, str):
        return dict(backbone)
    if backbone in BACKBONES:
        return dict(BACKBONES[backbone])
    if backbone.startswith('timm/'):
        return dict(type='mmpretrain.TIMMBackbone', model_name=backbone[len('timm/') :])
    if MODELS.get(f'mmpretrain.{backbone}') is not None:
        return dict(type=f'mmpretrain.{backbone}')
    raise ValueError(
        f'`backbone` must be one of {", ".join(BACKBONES)}, timm/<model>, or the name of a backbone class of '
        f'mmpretrain, got {backbone!r}.'
    )


def encoder_config(name: str, weights: bool = True) -> dict:
    """Return the config of a backbone by any name that torchvision, timm or mmpretrain has for a model.

    Looked for in this order, unless a prefix such as ``timm/`` says where; a class of mmpretrain comes last.

    Args:
        name: such as ``wide_resnet50_2``, ``timm/regnety_002``, ``efficientnet-b4_3rdparty_8xb32_in1k``, ``ConvNeXt``.
        weights: start from the ImageNet weights of that name (a download where they are not cached), or from none.
    """
    import torchvision

    source, _, plain = name.rpartition('/')
    if source in ('', 'torchvision') and plain in torchvision.models.list_models(module=torchvision.models):
        init = dict(init_cfg=dict(type='Pretrained', checkpoint=f'torchvision://{plain}')) if weights else {}
        return dict(type='TorchvisionBackbone', name=plain, **init)
    if source != 'mmpretrain':
        require('pretrain', 'timm', who=f'to look for {plain!r} among the models of timm')
    import timm
    from mmpretrain.apis.model import ModelHub, list_models

    if source in ('', 'timm') and timm.is_model(plain):
        return dict(type='mmpretrain.TIMMBackbone', model_name=plain, pretrained=weights)
    if source in ('', 'mmpretrain') and plain in list_models():
        found = ModelHub.get(plain)
        init = dict(type='Pretrained', checkpoint=found.weights) if weights and found.weights else None
        return {**found.config.model.backbone.to_dict(), 'init_cfg': init} | dict(
            type=f'mmpretrain.{found.config.model.backbone.type}'
        )
    if source in ('', 'mmpretrain') and MODELS.get(f'mmpretrain.{plain}') is not None:
        if weights:
            raise ValueError(f'{name!r} is a class without weights of its own; name a model of it, or take no weights.')
        return dict(type=f'mmpretrain.{plain}')
    near = get_close_matches(plain, {*torchvision.models.list_models(), *timm.list_models(), *list_models()}, 4)
    raise ValueError(
        f'an encoder must be the name of a model of torchvision, timm or mmpretrain, got {name!r}; similar: '
        f'{", ".join(near) or "none"}.'
    )


def without_weights(backbone: Mapping) -> dict:
    """Return the config of a backbone that fetches no weights when it is built."""
    return {key: False if key == 'pretrained' else value for key, value in backbone.items() if key != 'init_cfg'}


@MODELS.register_module()
class TorchvisionBackbone(BaseModule):
    """A classifier of torchvision without its head: up to its last map, or its last tokens.

    Args:
        name: of the model, such as ``resnet18`` or ``efficientnet_b4``.
        init_cfg: see mmengine.
    """

    def __init__(self, name: str, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        from torchvision.models import get_model
        from torchvision.models.feature_extraction import create_feature_extractor

        whole = get_model(name, weights=None)
        self.side = 224  # a size that every one of them takes
        self.network = create_feature_extractor(whole, {_last_features(whole): 'features'})

    def forward(self, inputs: Tensor) -> tuple[Tensor]:
        """Return the last map, ``(B, C, h, w)``, or tokens ``(B, N, C)``."""
        return (self.network(inputs)['features'],)


def _last_features(network: nn.Module, side: int = 224) -> str:
    """Return the part that puts out the last map or tokens before a classifier is done with them."""
    seen: list[str] = []

    def note(name: str, part: nn.Module, _inputs, output) -> None:
        head = name.split('.')[0].lower() in ('classifier', 'fc', 'head', 'heads') or 'aux' in name.lower()
        spread = isinstance(output, Tensor) and output.ndim in (3, 4) and output.shape[2:].numel() > 1
        if spread and not head and not isinstance(part, nn.AdaptiveAvgPool2d):
            seen.append(name)

    hooks = [part.register_forward_hook(partial(note, name)) for name, part in network.named_modules() if name]
    training = network.training
    with torch.no_grad():
        network.eval()(torch.zeros(1, 3, side, side))
    for hook in hooks:
        hook.remove()
    network.train(training)
    return seen[-1]


def feature_width(backbone: nn.Module, side: int = 64) -> int:
    """Return the width of the pooled features of a backbone, found with one small image, or one of its only size."""
    only = getattr(getattr(getattr(backbone, 'timm_model', None), 'patch_embed', None), 'img_size', None)
    side = getattr(backbone, 'side', only[0] if only else side)
    training = backbone.training
    backbone.eval()
    with torch.no_grad():
        width = pool(backbone(torch.zeros(1, 3, side, side))).shape[1]
    backbone.train(training)
    return width


@MODELS.register_module()
class CutPasteClassifier(ImageClassifier):
    """Tells untouched images from pasted ones.

    Args:
        backbone: config of a backbone, or its name, see :func:`backbone_config`.
        head: config of a head; ``in_channels`` follows the backbone.
        data_preprocessor: config of ours: mmpretrain would hand batch augmentations to one of its own.
        **kwargs: arguments of mmpretrain's ``ImageClassifier``.
    """

    def __init__(
        self, backbone: str | Mapping, head: Mapping, data_preprocessor: Mapping | None = None, **kwargs
    ) -> None:
        built = MODELS.build(backbone_config(backbone))
        super().__init__(
            backbone=built,
            head=dict(head, in_channels=feature_width(built)),
            data_preprocessor=MODELS.build(dict(data_preprocessor or dict(type='ViewDataPreProcessor'))),
            **kwargs,
        )


@MODELS.register_module()
class ProjectionHead(BaseModule):
    """Linear, batch norm and ReLU for each width, then a linear classifier with cross-entropy.

    Args:
        in_channels: width of the pooled features; the classifier fills it in from its backbone.
        num_classes: views that are told apart.
        hidden: widths of the projection, ``[512] * n + [128]`` in the paper.
        init_cfg: see mmengine.
    """

    def __init__(
        self, in_channels: int, num_classes: int = 3, hidden: Sequence[int] = (512, 128), init_cfg: dict | None = None
    ) -> None:
        super().__init__(init_cfg)
        self.num_classes = num_classes
        layers: list[nn.Module] = []
        width = in_channels
        for after in hidden:
            layers += [nn.Linear(width, after, bias=False), nn.BatchNorm1d(after), nn.ReLU(inplace=True)]
            width = after
        self.projection = nn.Sequential(*layers)
        self.classifier = nn.Linear(width, num_classes)

    def forward(self, features: Tensor | Sequence) -> Tensor:
        """Return ``(B, num_classes)`` logits of what the backbone puts out."""
        return self.classifier(self.projection(pool(features)))

    def loss(self, features: Tensor | Sequence, data_samples: Sequence) -> dict[str, Tensor]:
        """Return the cross-entropy and the share of views classified correctly, in percent."""
        labels = torch.stack([sample.gt_label for sample in data_samples]).to(features[-1].device)
        if int(labels.max()) >= self.num_classes:
            raise ValueError(
                f'`num_classes` of the head must be more than every label of the views, got {self.num_classes} and the '
                f'label {int(labels.max())}; set `variant` at the top of the config, which sets both.'
            )
        logits = self(features)
        return dict(loss=F.cross_entropy(logits, labels), accuracy=100 * (logits.argmax(1) == labels).float().mean())

    def predict(self, features: Tensor | Sequence, data_samples: Sequence) -> Sequence:
        """Add ``pred_score`` ``(num_classes,)`` and ``pred_label`` to the samples."""
        for scores, sample in zip(self(features).softmax(1), data_samples, strict=True):
            sample.set_data(dict(pred_score=scores, pred_label=scores.argmax()))
        return data_samples


@MODELS.register_module()
class ViewDataPreProcessor(BaseDataPreprocessor):
    """Flatten ``(V, 3, h, w)`` uint8 RGB views of each image to one normalised batch, image by image.

    Args:
        mean, std: per channel, RGB, of pixels in 0..255.
    """

    def __init__(self, mean: Sequence[float] = MEAN, std: Sequence[float] = STD) -> None:
        super().__init__()
        self.register_buffer('mean', torch.tensor(mean, dtype=torch.float32).view(-1, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(std, dtype=torch.float32).view(-1, 1, 1), persistent=False)

    def forward(self, data: dict, training: bool = False) -> dict:
        """Return ``inputs`` ``(B V, 3, h, w)`` float32 and one sample with ``gt_label`` for each of them."""
        data = self.cast_data(data)
        inputs = torch.cat(list(data['inputs'])).float().sub_(self.mean).div_(self.std)
        samples = []
        for number, sample in enumerate(data['data_samples']):
            for label in sample.gt_label:
                element = BaseDataElement(gt_label=label)
                element.set_metainfo(dict(img_path=sample.metainfo.get('img_path'), image_index=number))
                samples.append(element)
        return dict(inputs=inputs, data_samples=samples)
