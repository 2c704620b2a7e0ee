"""What the transforms that make defects share: the random stream of a sample, the images' frame, the records."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.logging import print_log

from mmdefect.registry import TRANSFORMS
from mmdefect.synthesis.canvas import ArrayCanvas
from mmdefect.synthesis.engine import Background
from mmdefect.synthesis.location import location_codes
from mmdefect.synthesis.records import record_of
from mmdefect.synthesis.streams import stream_generator
from mmdefect.synthesis.types import Instance

#: After so many drawn defects the skipped ones are logged for the first time, then each time ten times as many.
FIRST_REPORT = 200


class DefectTransform(BaseTransform):
    """Base of the transforms that write defects into ``img`` and ``gt_seg_map``.

    They go behind resize, crop and flip, so that sizes are sizes of the network input. Randomness comes from
    ``sample_seed`` and the transform's own stream; without a seed (a sampler that does not number its draws) from
    numpy's global generator.

    Required keys: ``img`` (uint8), ``gt_seg_map``; optional ``gt_location_map``, ``location_density``, ``sample_seed``.

    Added keys: ``instances``, list of records with ``box_xyxy``, ``class_index`` and all fields of
    :class:`~mmdefect.synthesis.types.Instance`; ``synthesis_skipped``, counts by reason.

    Args:
        stream: separates transforms of one type in one pipeline.
    """

    def __init__(self, stream: int = 0) -> None:
        self.stream = stream
        self._counts: Counter = Counter()
        self._report_at = FIRST_REPORT

    @abstractmethod
    def write(
        self, canvas: ArrayCanvas, results: dict, generator: torch.Generator
    ) -> tuple[list[Instance], Mapping[str, int]]:
        """Write defects into the canvas; return them and what was skipped."""

    def transform(self, results: dict) -> dict:
        """Write defects into copies of image and label map.

        Raises:
            ValueError: if there is no label map.
        """
        if 'gt_seg_map' not in results:
            raise ValueError(
                f'`gt_seg_map` must be loaded before {type(self).__name__}; place LoadDefectAnnotations before it.'
            )
        generator = generator_of(results, type(self).__name__, self.stream)
        results['img'] = np.array(results['img'], order='C')
        results['gt_seg_map'] = np.array(results['gt_seg_map'], order='C')
        instances, skipped = self.write(ArrayCanvas(results['img'], results['gt_seg_map']), results, generator)
        results['instances'] = [*results.get('instances', []), *map(record_of, instances)]
        results['synthesis_skipped'] = dict(Counter(results.get('synthesis_skipped', {})) + Counter(skipped))
        self._count(len(instances), skipped)
        return results

    def _count(self, written: int, skipped: Mapping[str, int]) -> None:
        self._counts.update(skipped)
        self._counts['written'] += written
        total = sum(self._counts.values())
        if total >= self._report_at:
            self._report_at = total * 10
            reasons = ', '.join(f'{n} {reason}' for reason, n in sorted(self._counts.items()) if reason != 'written')
            print_log(
                f'{type(self).__name__}: of {total} defects drawn in this process '
                f'{total - self._counts["written"]} were skipped ({reasons or "none"})',
                logger='current',
            )


@TRANSFORMS.register_module()
class SynthesizeDefects(BaseTransform):
    """Apply one of several transforms that make defects, or none: what a synthesis recipe becomes in the pipeline.

    Args:
        transforms: the transforms.
        weights: how often each is taken; equally often by default.
        probability: of an image to get a defect: ``clean`` for images without, ``defective`` for those with one.
        fade: ``(first, last)``: from draw ``first`` of a rank to draw ``last`` the probability falls to 0, where it
            stays, so that a training ends on images as they are. Needs a sampler that numbers its draws.
    """

    def __init__(
        self,
        transforms: Sequence[dict],
        weights: Sequence[float] | None = None,
        probability: Mapping[str, float] | None = None,
        fade: Sequence[int] | None = None,
    ) -> None:
        self.transforms = [TRANSFORMS.build(t) for t in transforms]
        weights = [1.0] * len(self.transforms) if weights is None else list(weights)
        if not self.transforms or len(weights) != len(self.transforms) or min(weights) < 0 or sum(weights) <= 0:
            raise ValueError(
                f'`weights` must be one number >= 0 for each of {len(self.transforms)} transforms, not '
                f'all 0, got {weights}.'
            )
        self.bounds = np.cumsum(weights) / sum(weights)
        self.probability = {'clean': 1.0, 'defective': 1.0, **(probability or {})}
        if set(self.probability) != {'clean', 'defective'} or not all(0 <= p <= 1 for p in self.probability.values()):
            raise ValueError(f'`probability` must give numbers in [0, 1] for clean and defective, got {probability}.')
        if fade is not None and not (len(fade) == 2 and 0 <= fade[0] <= fade[1]):
            raise ValueError(f'`fade` must be two numbers of draws with 0 <= first <= last, got {fade}.')
        self.fade = fade

    def choose(self, results: dict) -> BaseTransform | None:
        """Draw which transform an image gets; ``None`` for none."""
        generator = generator_of(results, type(self).__name__, 0)
        changed, choice = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        shows = results.get('shows_defect')
        if shows is None:
            label = results['gt_seg_map']
            shows = bool(((label > 0) & (label != 255)).any())
        if changed >= self.probability['defective' if shows else 'clean'] * self.strength(results):
            return None
        return self.transforms[min(int(np.searchsorted(self.bounds, choice, 'right')), len(self.transforms) - 1)]

    def strength(self, results: dict) -> float:
        """Return what is left of the probabilities at this draw, in [0, 1].

        Raises:
            ValueError: if they fade but the draw has no number.
        """
        if self.fade is None:
            return 1.0
        if 'draws' not in results:
            raise ValueError(
                'a synthesis that fades needs numbered draws, but the sample has none; use the sampler '
                'DefectSampler, MixingSampler or ClassAwareSampler.'
            )
        first, last = self.fade
        return float(np.clip((last - results['draws']) / max(last - first, 1), 0, 1))

    def transform(self, results: dict) -> dict | None:
        """Apply what is drawn."""
        chosen = self.choose(results)
        return results if chosen is None else chosen(results)

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}(transforms={self.transforms}, probability={self.probability})'


def generator_of(results: dict, name: str, stream: int) -> torch.Generator:
    """Return the generator of one transform for one sample."""
    seed = results.get('sample_seed')
    return stream_generator(int(np.random.randint(0, 2**31)) if seed is None else seed, name, stream)


def background_of(results: dict) -> Background:
    """Return what the engine must know of the image."""
    label, codes = results['gt_seg_map'], results.get('gt_location_map')
    factor = results.get('scale_factor') or (1.0, 1.0)  # mmcv: across, down
    factor = (factor, factor) if isinstance(factor, (int, float)) else factor
    file_hw = tuple(results['ori_shape'][:2]) if codes is not None and 'ori_shape' in results else None
    return Background(label, codes, file_hw, (float(factor[1]), float(factor[0])), results.get('location_density'))


def codes_of(results: dict) -> np.ndarray:
    """Return the location codes of the image; without a location map its whole frame is object."""
    codes = results.get('gt_location_map')
    return location_codes(results['gt_seg_map'].shape) if codes is None else codes
