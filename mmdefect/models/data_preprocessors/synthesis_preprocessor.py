"""Make defects for a whole batch where the batch is: stack, scale to [0, 1], synthesise, normalise."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from mmseg.models.data_preprocessor import SegDataPreProcessor
from mmseg.utils import stack_batch
from torch import Tensor

from mmdefect.registry import MODELS, TRANSFORMS
from mmdefect.synthesis.records import Synthesis, record_of
from mmdefect.synthesis.sampler import Background
from mmdefect.synthesis.streams import seed_of, stream_generator

#: Images ``(B, C, H, W)`` float in [0, 1] RGB, labels ``(B, H, W)`` int64, the meta information of each sample
#: (``sample_seed``, ``shows_defect``) and what its pastes must know of it.
Synthesize = Callable[[Tensor, Tensor, Sequence[Mapping], Sequence[Background]], Synthesis]


@MODELS.register_module()
class SynthesisDataPreProcessor(SegDataPreProcessor):
    """mmseg's preprocessor that makes defects in training batches before it normalises.

    It holds no parameters of a policy: as a part of the model, they would be trained with the network. What makes the
    defects is a callable, built from ``synthesis`` or handed over with :meth:`set_synthesis`.

    The pipeline must end in ``PackSynthesisInputs``: the seed and the location codes of each sample travel in it.

    Args:
        synthesis: ``transforms``, ``weights`` and ``probability`` of a recipe; the transforms must be ``PasteDefects``.
        **kwargs: arguments of mmseg's ``SegDataPreProcessor``.
    """

    def __init__(self, synthesis: Mapping[str, Any] | None = None, **kwargs) -> None:
        super().__init__(**kwargs)
        if kwargs.get('batch_augments') is not None:
            raise ValueError(
                '`batch_augments` must be left out with synthesis in the preprocessor, got some: they would run on '
                'unfinished samples; make them transforms of the pipeline.'
            )
        self._synthesize: Synthesize | None = None if synthesis is None else BatchSynthesis(**synthesis)

    def set_synthesis(self, synthesize: Synthesize | None) -> None:
        """Hand over what makes the defects; ``None`` makes none."""
        self._synthesize = synthesize

    def forward(self, data: dict, training: bool = False) -> dict[str, Any]:
        """Return the batch as the model takes it."""
        if not training or self._synthesize is None:
            return super().forward(data, training)
        facts = [_take_facts(sample) for sample in data['data_samples']]  # on the CPU, before anything moves
        data = self.cast_data(data)
        inputs = [one.float() for one in data['inputs']]
        if self._channel_conversion and inputs[0].size(0) == 3:
            inputs = [one[[2, 1, 0]] for one in inputs]
        sizes = dict(size=self.size, size_divisor=self.size_divisor, pad_val=self.pad_val, seg_pad_val=self.seg_pad_val)
        images, samples = stack_batch(inputs, data['data_samples'], **sizes)
        labels = torch.stack([sample.gt_sem_seg.data[0] for sample in samples])
        metas, size_hw = [sample.metainfo for sample in samples], tuple(labels.shape[1:])
        known = [_background(*fact, size_hw, meta) for fact, meta in zip(facts, metas, strict=True)]
        made = self._synthesize(images / 255, labels, metas, known)
        for sample, label, instances in zip(samples, made.label, made.instances, strict=True):
            sample.gt_sem_seg.data = label[None]
            sample.set_metainfo(dict(instances=[record_of(i) for i in instances]))
        images = made.image * 255
        if self._enable_normalize:
            images = (images - self.mean) / self.std
        return dict(inputs=images, data_samples=samples)


class BatchSynthesis:
    """A recipe of pastes for batches: samples on the CPU with the streams of the pipeline, writes all samples together
    where the batch is.

    Args:
        transforms: configs of ``PasteDefects``.
        weights: how often each is taken.
        probability: of ``clean`` and ``defective`` images to be changed.
        fade: samples of a rank between which the probabilities fall to 0.
    """

    def __init__(
        self,
        transforms: Sequence[Mapping],
        weights: Sequence[float] | None = None,
        probability: Mapping[str, float] | None = None,
        fade: Sequence[int] | None = None,
    ) -> None:
        other = [t['type'] for t in transforms if t['type'] != 'PasteDefects']
        if other:
            raise ValueError(
                f'transforms of a batch must be PasteDefects, got {other}; make these in the pipeline, '
                "with `where='worker'`."
            )
        settings = dict(transforms=transforms, weights=weights, probability=probability, fade=fade)
        self.recipe = TRANSFORMS.build(dict(type='SynthesizeDefects', **settings))

    def __call__(
        self, images: Tensor, labels: Tensor, metas: Sequence[Mapping], backgrounds: Sequence[Background]
    ) -> Synthesis:
        """Make defects; see :data:`Synthesize`."""
        new_images, new_labels = images.clone(), labels.clone()
        instances: list[list] = [[] for _ in metas]
        rows_of: dict[int, list[int]] = {}
        generators, transforms = {}, {}
        for row, (meta, background) in enumerate(zip(metas, backgrounds, strict=True)):
            known = dict(meta, sample_seed=seed_of(meta), gt_seg_map=background.label)
            chosen = self.recipe.choose(known)
            if chosen is not None:
                rows_of.setdefault(id(chosen), []).append(row)
                transforms[id(chosen)] = chosen
                generators[row] = stream_generator(known['sample_seed'], type(chosen).__name__, chosen.stream)
        for key, rows in rows_of.items():  # all images with the same transform go together
            where = torch.tensor(rows, device=images.device)
            known = [generators[row] for row in rows], [backgrounds[row] for row in rows]
            made = transforms[key].engine(images[where], labels[where], *known)
            new_images[where], new_labels[where] = made.image, made.label
            for row, own in zip(rows, made.instances, strict=True):
                instances[row] = own
        return Synthesis(new_images, new_labels, instances)


def _take_facts(sample) -> tuple[np.ndarray, np.ndarray | None]:
    """Take label map and location codes of a sample, as arrays, and the codes out of it: nothing else needs them."""
    label = sample.gt_sem_seg.data[0].cpu().numpy()
    if 'location_map' not in sample:
        return label, None
    codes = sample.location_map.data[0].cpu().numpy()
    del sample.location_map
    return label, codes


def _background(label: np.ndarray, codes: np.ndarray | None, size_hw: tuple[int, int], meta: Mapping) -> Background:
    """Return what must be known of an image, padded as the batch is."""
    pad = [(0, size - own) for size, own in zip(size_hw, label.shape, strict=True)]
    if any(after for _, after in pad):
        label = np.pad(label, pad, constant_values=255)
        codes = None if codes is None else np.pad(codes, pad, constant_values=255)
    return Background.of(label, codes, meta)
