"""What happens to an image before the network and to its logits after it: read from a config, the same in every backend."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

#: Steps of a test pipeline that change no pixel.
_NEUTRAL = (
    'LoadImageFromFile',
    'LoadAnnotations',
    'LoadDefectAnnotations',
    'LoadObjectMask',
    'PackSegInputs',
    'PackSynthesisInputs',
    'PackDefectInputs',
)


@dataclass(frozen=True)
class Preparation:
    """From uint8 RGB to the input of the network, and back to the size of the image.

    Attributes:
        scale_hw: size that images are resized to; ``None`` leaves them as they are.
        keep_ratio: whether ``scale_hw`` bounds the longer and the shorter side, or is the size itself.
        mean, std: per channel, in the order that the network takes.
        bgr: whether the network takes the channels in the order blue, green, red.
        align_corners: of the resize of the logits.
        activation: what makes probabilities of the outputs: ``softmax`` over the classes; of a single output, ``sigmoid``
            is the probability of the defect, and ``odds`` takes it as the odds ``p / (1 - p)`` (heat of anomalies).
    """

    scale_hw: tuple[int, int] | None
    keep_ratio: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    bgr: bool = False
    align_corners: bool = False
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


def read_preparation(cfg: Mapping, model) -> Preparation:
    """Read the preparation of a config and its built model.

    Args:
        cfg: of a test, composed.
        model: an mmseg segmentor.

    Raises:
        ValueError: if the test pipeline, or the preprocessor, does something that a deployed model would not.
    """
    resize = None
    for step in cfg['test_dataloader']['dataset']['pipeline']:
        if step['type'] == 'Resize' and resize is None and step.get('scale') is not None:
            resize = step
        elif step['type'] not in _NEUTRAL:
            raise ValueError(
                f'the test pipeline of a deployed model may load, resize once to a `scale` and pack, but it '
                f'has {dict(step)}; leave that step out.'
            )
    given = cfg['model'].get('data_preprocessor') or {}
    if given.get('test_cfg'):
        raise ValueError(
            f'the preprocessor of a deployed model must not pad in testing, but it has `test_cfg` '
            f'{dict(given["test_cfg"])}; leave it out.'
        )
    head = model.decode_head
    channels = int(cfg['model']['backbone'].get('in_channels', 3)) if 'backbone' in cfg['model'] else 3
    if channels != 3:
        raise ValueError(f'a deployed model must take images of 3 channels, but it takes {channels}.')
    flipped = given.get('bgr_to_rgb') or given.get('rgb_to_bgr')  # files are read as BGR
    return Preparation(
        scale_hw=None if resize is None else tuple(int(v) for v in resize['scale'])[::-1],
        keep_ratio=bool(resize and resize.get('keep_ratio', False)),
        mean=tuple(float(v) for v in given.get('mean') or (0, 0, 0)),
        std=tuple(float(v) for v in given.get('std') or (1, 1, 1)),
        bgr=not flipped,
        align_corners=bool(model.align_corners),
        activation='sigmoid' if head.out_channels == 1 else 'softmax',
    )
