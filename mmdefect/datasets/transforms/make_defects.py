"""The transforms that make defects: pasted, CutPaste, Perlin; and the choice between them, a recipe in the pipeline."""

from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmengine.logging import print_log
from numpy import ndarray

from mmdefect.datasets.donors import library_of
from mmdefect.registry import TRANSFORMS
from mmdefect.synthesis.cutpaste import KINDS, CutPasteParameters, CutPasteRanges, render_array, sample_cutpaste
from mmdefect.synthesis.engine import PasteEngine
from mmdefect.synthesis.library import DefectLibrary
from mmdefect.synthesis.perlin import PerlinRanges, ShuffledTiles, TextureFolder, perlin_anomaly
from mmdefect.synthesis.places import FIRST_CODE, location_codes
from mmdefect.synthesis.records import VISIBLE_TOLERANCE, Instance, checked_image, instance_at, record_of

from mmdefect.synthesis.records import shows_defect, visible_change, write_label  # isort: skip
from mmdefect.synthesis.sampler import Background
from mmdefect.synthesis.streams import seed_of, stream_generator

#: The skipped defects are logged for the first time after this many, then each time ten times as many.
FIRST_REPORT = 200
#: The defects that can be seen, and the number of skipped ones by reason.
Made = tuple[list[Instance], Mapping[str, int]]


class DefectTransform(BaseTransform):
    """Base of the transforms that write defects into ``img`` and ``gt_seg_map``.

    They go behind resize, crop and flip, so that sizes are sizes of the network input. Randomness comes from
    ``sample_seed`` and the transform's own stream.

    Required keys: ``img`` (uint8), ``gt_seg_map``; optional ``gt_location_map``, ``location_density``, ``sample_seed``.

    Added keys: ``instances``, list of records with ``box_xyxy``, ``class_index`` and all fields of
    :class:`~mmdefect.synthesis.records.Instance`; ``synthesis_skipped``, counts by reason.

    Args:
        stream: separates transforms of one type in one pipeline.
    """

    def __init__(self, stream: int = 0) -> None:
        self.stream = stream
        self._counts: Counter = Counter()
        self._report_at = FIRST_REPORT

    @abstractmethod
    def make(self, image: ndarray, label: ndarray, results: dict, generator: torch.Generator) -> Made:
        """Write defects into a uint8 image, BGR or grey, and its label map, in place."""

    def transform(self, results: dict) -> dict:
        """Write defects into copies of image and label map."""
        if 'gt_seg_map' not in results:
            raise ValueError(
                f'`gt_seg_map` must be loaded before {type(self).__name__}; place LoadDefectAnnotations before it.'
            )
        generator = stream_generator(seed_of(results), type(self).__name__, self.stream)
        results['img'] = np.array(results['img'], order='C')
        results['gt_seg_map'] = np.array(results['gt_seg_map'], order='C')
        instances, skipped = self.make(results['img'], results['gt_seg_map'], results, generator)
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
                f'{type(self).__name__}: of {total} defects sampled in this process '
                f'{total - self._counts["written"]} were skipped ({reasons or "none"})',
                logger='current',
            )


@TRANSFORMS.register_module()
class PasteDefects(DefectTransform):
    """Paste defects of a library, see :class:`~mmdefect.synthesis.engine.PasteEngine`; keys as its base class.

    The library is opened, or built, when the transform is made, before any worker starts.

    Args:
        donors: a library; its folder; or arguments of :func:`~mmdefect.datasets.donors.library_of`. The synthesis step
            of a config fills in the training data set, and validation and test set as ``held_out``.
        policy: settings of :class:`~mmdefect.synthesis.policy.PolicySpec`.
        stream: separates several of these in one pipeline.
    """

    def __init__(
        self,
        donors: DefectLibrary | str | Mapping[str, Any] | None = None,
        policy: Mapping[str, Any] | None = None,
        stream: int = 0,
    ) -> None:
        super().__init__(stream)
        if donors is None:
            raise ValueError(
                '`donors` of PasteDefects must be a library or what to cut one from, got none; name the folder of a '
                'library or dict(dataset=...), or use a top-level `synthesis`, which fills it in.'
            )
        if isinstance(donors, Mapping):
            if 'dataset' not in donors:
                raise ValueError(
                    '`donors` must name the training `dataset` to cut defects from, got keys '
                    f'{sorted(donors)}; a config with a top-level `synthesis` fills it in.'
                )
            donors = library_of(**donors)
        library = donors if isinstance(donors, DefectLibrary) else DefectLibrary(donors)
        self.engine = PasteEngine(library, policy)

    def make(self, image: ndarray, label: ndarray, results: dict, generator: torch.Generator) -> Made:
        """Sample and write."""
        background = Background.of(results['gt_seg_map'], results.get('gt_location_map'), results)
        return self.engine.paste(image, label, background, generator)

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}(donors={str(self.engine.library.folder)!r}, policy={self.engine.policy})'


@TRANSFORMS.register_module()
class CutPaste(DefectTransform):
    """CutPaste on the object, see :mod:`mmdefect.synthesis.cutpaste`; keys as its base class.

    Args:
        kind: ``'normal'``, ``'scar'`` or ``'union'``.
        class_id: class of the pasted pixels.
        ranges: settings of :class:`~mmdefect.synthesis.cutpaste.CutPasteRanges`.
        min_overlap: fraction of the target, and of the source, that must lie on the object.
        tolerance: a pixel that changed by no more than this, of [0, 1], in every channel is not labelled.
        tries: places that are tried before the defect is skipped and counted.
        stream: separates several of these in one pipeline.
    """

    def __init__(
        self,
        kind: str = 'union',
        class_id: int = 1,
        ranges: Mapping[str, Any] | None = None,
        min_overlap: float = 0.95,
        tolerance: float = VISIBLE_TOLERANCE,
        tries: int = 20,
        stream: int = 0,
    ) -> None:
        super().__init__(stream)
        if kind not in KINDS:
            raise ValueError(f'`kind` must be one of {", ".join(KINDS)}, got {kind!r}.')
        self.kind, self.class_id, self.ranges = kind, class_id, CutPasteRanges(**(ranges or {}))
        self.min_overlap, self.tolerance, self.tries = min_overlap, tolerance, tries

    def make(self, image: ndarray, label: ndarray, results: dict, generator: torch.Generator) -> Made:
        """Sample until source and target lie on the object, then write."""
        image, allowed, reason = checked_image(image), codes_of(results) >= FIRST_CODE, 'off the object'
        for _ in range(self.tries):
            paste = sample_cutpaste(image.shape[:2], generator, self.kind, self.ranges)
            if min(allowed[paste.source].mean(), allowed[paste.target].mean()) < self.min_overlap:
                continue
            instance = self._write(image, label, paste, allowed)
            if instance is not None:
                return [instance], {}
            reason = 'invisible'
        return [], {reason: 1}

    def _write(self, image: ndarray, label: ndarray, paste: CutPasteParameters, allowed: ndarray) -> Instance | None:
        part, alpha = render_array(image, paste)
        target, pasted = image[paste.target], allowed[paste.target]
        changed = visible_change(part, target, self.tolerance) & pasted
        visible = write_label(label[paste.target], changed, self.class_id)
        if not visible.any():
            return None
        np.copyto(target, part, where=(pasted & (alpha > 0))[..., None])
        return paste.record(visible, self.class_id)

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}(kind={self.kind!r}, class_id={self.class_id}, ranges={self.ranges})'


@TRANSFORMS.register_module()
class PerlinAnomaly(DefectTransform):
    """Perlin noise anomalies on the object, see :mod:`mmdefect.synthesis.perlin`; keys as its base class.

    Args:
        class_id: class of the changed pixels.
        textures: folder of images to take textures from; the image itself, in shuffled tiles, when absent.
        ranges: settings of :class:`~mmdefect.synthesis.perlin.PerlinRanges`.
        tolerance: a pixel that changed by no more than this, of [0, 1], in every channel is not labelled.
        stream: separates several of these in one pipeline.
    """

    def __init__(
        self,
        class_id: int = 1,
        textures: str | None = None,
        ranges: Mapping[str, Any] | None = None,
        tolerance: float = VISIBLE_TOLERANCE,
        stream: int = 0,
    ) -> None:
        super().__init__(stream)
        self.class_id, self.ranges, self.tolerance = class_id, PerlinRanges(**(ranges or {})), tolerance
        self.source = ShuffledTiles() if textures is None else TextureFolder(textures)

    def make(self, image: ndarray, label: ndarray, results: dict, generator: torch.Generator) -> Made:
        """Sample and write; what counts as changed is decided on the 8-bit pixels."""
        image = checked_image(image)
        planes = torch.from_numpy(np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1)))
        options = dict(source=self.source, class_id=self.class_id, ranges=self.ranges, tolerance=self.tolerance)
        allowed = torch.from_numpy(codes_of(results) >= FIRST_CODE)
        labels = torch.from_numpy(label).long()
        made = perlin_anomaly(planes.float().mul_(1 / 255), generator, labels, foreground=allowed, **options)
        if not made.instances:
            return [], made.skipped
        rounded = made.image.mul(255).round_().clamp_(0, 255).to(torch.uint8).numpy()
        new = np.ascontiguousarray(rounded.transpose(1, 2, 0)[..., ::-1])
        visible = write_label(label, visible_change(new, image, self.tolerance), self.class_id)
        if not visible.any():
            return [], {'invisible': 1}
        image[:] = new
        record = made.instances[0]
        facts = record.source, record.generator, record.blend, record.parameters
        return [instance_at(visible, (0, 0), self.class_id, *facts)], made.skipped

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}(class_id={self.class_id}, ranges={self.ranges})'


@TRANSFORMS.register_module()
class SynthesizeDefects(BaseTransform):
    """Apply one of several transforms that make defects, or none: what a synthesis recipe becomes in the pipeline.

    Args:
        transforms: the transforms.
        weights: how often each is taken; equally often by default.
        probability: of an image to get a defect: ``clean`` for images without, ``defective`` for those with one.
        fade: ``(first, last)``: from sample ``first`` of a rank to sample ``last`` the probability falls to 0,
            where it stays, so that a training ends on images as they are. Needs a sampler that numbers its samples.
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
            raise ValueError(f'`weights` must give each transform a number >= 0, one above 0, got {weights}.')
        self.bounds = np.cumsum(weights) / sum(weights)
        self.probability = {'clean': 1.0, 'defective': 1.0, **(probability or {})}
        if set(self.probability) != {'clean', 'defective'} or not all(0 <= p <= 1 for p in self.probability.values()):
            raise ValueError(f'`probability` must give numbers in [0, 1] for clean and defective, got {probability}.')
        if fade is not None and not (len(fade) == 2 and 0 <= fade[0] <= fade[1]):
            raise ValueError(f'`fade` must be two numbers of samples with 0 <= first <= last, got {fade}.')
        self.fade = fade

    def choose(self, results: dict) -> BaseTransform | None:
        """Sample which transform an image gets; ``None`` for none."""
        generator = stream_generator(seed_of(results), type(self).__name__)
        changed, choice = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        shows = results.get('shows_defect')
        if shows is None:
            shows = shows_defect(results['gt_seg_map'])
        if changed >= self.probability['defective' if shows else 'clean'] * self.strength(results):
            return None
        return self.transforms[min(int(np.searchsorted(self.bounds, choice, 'right')), len(self.transforms) - 1)]

    def strength(self, results: dict) -> float:
        """Return what is left of the probabilities at this sample, in [0, 1]."""
        if self.fade is None:
            return 1.0
        if 'draws' not in results:
            raise ValueError(
                'a synthesis that fades needs numbered samples, but this one has none; use the sampler '
                'DefectSampler, MixingSampler or ClassAwareSampler.'
            )
        first, last = self.fade
        return float(np.clip((last - results['draws']) / max(last - first, 1), 0, 1))

    def transform(self, results: dict) -> dict | None:
        """Apply what is sampled."""
        chosen = self.choose(results)
        return results if chosen is None else chosen(results)

    def __repr__(self) -> str:
        return f'{self.__class__.__name__}(transforms={self.transforms}, probability={self.probability})'


def codes_of(results: dict) -> np.ndarray:
    """Return the location codes of the image; without a location map its whole frame is object."""
    codes = results.get('gt_location_map')
    return location_codes(results['gt_seg_map'].shape) if codes is None else codes
