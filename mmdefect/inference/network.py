"""The deployed network in PyTorch: uint8 images in, labels and probabilities out.

The predictor runs it, TorchScript and torch.export save it, and the ONNX graph repeats it node by node
(``onnx_graph.py``). Images are resized as uint8, as in training, with weights of ten bits: every value in between is a
whole number below 2 ** 24, which float32 holds exactly, so all backends give the network the same pixels. (A resize in
plain floats rounds a few pixels differently in each, and a grey level changes a probability by some 1e-4.)
"""

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from mmdefect.functional.heat_maps import decide_heat

#: Steps of a weight, and of the values between the two passes.
WEIGHT_STEPS, VALUE_STEPS = 1024, 32


@dataclass(frozen=True)
class Preparation:
    """From uint8 RGB to the input of the network, and from its outputs back to the size of the image."""

    scale_hw: tuple[int, int] | None  # size that images are resized to; None leaves them as they are
    keep_ratio: bool  # whether scale_hw bounds the longer and the shorter side, or is the size itself
    mean: tuple[float, ...]  # per channel, in the order that the network takes
    std: tuple[float, ...]
    bgr: bool = False  # whether the network takes the channels in the order blue, green, red
    align_corners: bool = False  # of the resize of the logits
    #: What makes probabilities of the outputs: ``softmax`` over the classes; for a single output ``sigmoid``, or
    #: ``odds``, which takes two maps, heat and the score of the image, as ``p / (1 - p)`` of the defect, by one rule
    #: (:func:`mmdefect.functional.heat_maps.decide_heat`).
    activation: str = 'softmax'

    def network_size(self, image_hw: tuple[int, int]) -> tuple[int, int]:
        """Return the size at which the network sees an image, rounded as mmcv does it."""
        if self.scale_hw is None:
            return tuple(image_hw)
        if not self.keep_ratio:
            return self.scale_hw
        factor = min(max(self.scale_hw) / max(image_hw), min(self.scale_hw) / min(image_hw))
        return tuple(int(side * factor + 0.5) for side in image_hw)

    def to_dict(self) -> dict:
        """Return plain values."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


class Core(nn.Module):
    """A segmentor as a plain function: ``(N, 3, h, w)`` float to ``(N, C, h, w)`` logits."""

    def __init__(self, segmentor: nn.Module) -> None:
        super().__init__()
        self.segmentor = segmentor

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits at the size of the input."""
        size = inputs.shape[2:]
        return self.segmentor.encode_decode(inputs, [dict(img_shape=size, pad_shape=size, ori_shape=size)])


class DeployedNetwork(nn.Module):
    """Preparation, network (see :class:`Core`) and decision in one."""

    def __init__(self, core: nn.Module, preparation: Preparation) -> None:
        super().__init__()
        self.core, self.preparation = core, preparation
        self.register_buffer('mean', torch.tensor(preparation.mean).view(1, 3, 1, 1))
        self.register_buffer('std', torch.tensor(preparation.std).view(1, 3, 1, 1))

    def forward(self, images: Tensor, thresholds: Tensor) -> tuple[Tensor, Tensor]:
        """Predict ``(N, H, W, 3)`` uint8 RGB, with ``(K,)`` float32 thresholds (:mod:`mmdefect.deployment.decision`).

        Returns:
            ``(N, H, W)`` uint8 labels and ``(N, K + 1, H, W)`` float32 probabilities.
        """
        size_hw, align = images.shape[1:3], self.preparation.align_corners
        logits = self.core(self.prepare(images))
        if logits.shape[2:] != size_hw:
            logits = functional.interpolate(logits, size_hw, mode='bilinear', align_corners=align)
        probabilities = activate(logits, self.preparation.activation)
        return decide(probabilities, thresholds), probabilities

    def prepare(self, images: Tensor) -> Tensor:
        """Return ``(N, 3, h, w)`` float32, resized and normalised."""
        size_hw = self.preparation.network_size(images.shape[1:3])
        if tuple(images.shape[1:3]) != tuple(size_hw):
            images = resize_images(images, size_hw)
        inputs = images.permute(0, 3, 1, 2).float()
        if self.preparation.bgr:
            inputs = inputs.flip(1)
        return (inputs - self.mean) / self.std


def activate(outputs: Tensor, activation: str) -> Tensor:
    """Return ``(N, K + 1, H, W)`` probabilities of the outputs of a network; see :class:`Preparation`."""
    if activation == 'softmax':
        return outputs.softmax(1)
    if activation == 'odds':
        outputs = decide_heat(outputs[:, 0], outputs[:, 1])[:, None]
    defect = outputs.sigmoid() if activation == 'sigmoid' else outputs / (1 + outputs)
    return torch.cat([1 - defect, defect], 1)


def resize_images(images: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Resize ``(N, H, W, C)`` uint8 linearly, pixel centres aligned, to float32 of whole numbers in [0, 255]."""
    for axis, steps in ((1, VALUE_STEPS), (2, 1)):
        low, high, weight = interpolation(images.shape[axis], size_hw[axis - 1], images.device)
        weight = weight.view(-1, 1, 1) if axis == 1 else weight.view(-1, 1)
        first, second = (images.index_select(axis, index).float() for index in (low, high))
        scale = steps / WEIGHT_STEPS if axis == 1 else 1 / (VALUE_STEPS * WEIGHT_STEPS)
        images = ((first * (WEIGHT_STEPS - weight) + second * weight) * scale + 0.5).floor()
    return images


def interpolation(length: int, new_length: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return the lower and the upper pixel of each new one, int64, and the weight of the upper, float32 in 0..1024."""
    position = (torch.arange(new_length, dtype=torch.float64, device=device) + 0.5) * (length / new_length) - 0.5
    position = position.clamp(0, length - 1)
    low = position.floor()
    weight = ((position - low) * WEIGHT_STEPS + 0.5).floor()
    return low.long(), (low + 1).clamp(max=length - 1).long(), weight.float()


def decide(probabilities: Tensor, thresholds: Tensor) -> Tensor:
    """Return ``(N, H, W)`` uint8 labels; see :func:`mmdefect.deployment.decision.decide_labels`."""
    factors = (1 - thresholds) / thresholds
    best = probabilities[:, 0]
    chosen = torch.zeros_like(best, dtype=torch.uint8)
    for k in range(1, probabilities.shape[1]):
        value = probabilities[:, k] * factors[k - 1]
        chosen = chosen.masked_fill(value > best, k)
        best = torch.maximum(best, value)
    return chosen
