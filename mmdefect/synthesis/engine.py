"""Paste real defects: draw where each goes, then write them into the picture with exact labels.

The draw runs on the CPU and is small; applying it is deterministic and runs where the picture is. One picture takes one
generator, so its pixels do not depend on its batch mates.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from mmdefect.synthesis.array_writing import composed, limit_source
from mmdefect.synthesis.array_writing import visible as array_visible
from mmdefect.synthesis.augment import OperationRanges, sample_operations
from mmdefect.synthesis.blending import PoissonFactor, blend
from mmdefect.synthesis.canvas import ArrayCanvas, TensorCanvas
from mmdefect.synthesis.donor_fitting import middle_of, numbers_of, operations_from, prepare
from mmdefect.synthesis.donors import DefectLibrary
from mmdefect.synthesis.geometry import overlap
from mmdefect.synthesis.location import FIRST_CODE, SIDE, empirical_density, location_codes
from mmdefect.synthesis.placement import PlaceSearch
from mmdefect.synthesis.policy import DonorChooser, PolicySpec, uniforms
from mmdefect.synthesis.types import IGNORE_LABEL, Instance, Synthesis

#: Parameter of an instance: share of the outline at which the step to the picture was limited; absent for none.
LIMITED = 'boundary_limited'
BACKENDS = ('torch', 'numpy')
INVISIBLE, VANISHED, NO_POSE = 'invisible', 'vanished', 'no place on the outline'


@dataclass
class Background:
    """What the draw must know about a picture.

    Attributes:
        label: ``(H, W)`` integers on the CPU: 0 normal, 1..K defects, 255 ignore.
        codes: ``(H, W)`` float32 location codes; without them the whole frame is object and has no fixed pose.
        file_hw: height and width of the picture in its file; needed with ``codes``.
        scale_yx: pixels of this picture per pixel of the file, when there are no ``codes``.
        density: ``(GRID, GRID)`` learned density of this picture; takes the place of the one found in training labels.
    """

    label: ndarray
    codes: ndarray | None = None
    file_hw: tuple[int, int] | None = None
    scale_yx: tuple[float, float] = (1.0, 1.0)
    density: ndarray | None = None


@dataclass
class Paste:
    """One drawn defect, ready to be written.

    Attributes:
        donor: index in the library.
        class_id: its class.
        corner: row and column of the patch in the picture.
        patch: ``(3, h, w)`` float32 in [0, 1], RGB, on the CPU.
        mask: ``(h, w)`` bool on the CPU: what is pasted, the defect and ``grow`` pixels around it, as far as allowed.
        core: ``(h, w)`` bool on the CPU: the defect itself.
        blend: how it is composed.
        parameters: the numbers that make ``patch`` and ``mask`` again.
    """

    donor: int
    class_id: int
    corner: tuple[int, int]
    patch: Tensor
    mask: Tensor
    core: Tensor
    blend: str
    parameters: dict[str, float]


@dataclass
class Draw:
    """All defects of one picture, and what was drawn but found no place."""

    pastes: list[Paste] = field(default_factory=list)
    skipped: Counter = field(default_factory=Counter)


class PasteEngine:
    """Pastes the defects of a library after a policy. It holds no parameters to learn and no state that changes.

    ``backend`` of its methods is 'torch', for pictures on any device, or 'numpy', for 8-bit pictures
    (:class:`ArrayCanvas`) on the CPU: the same draws, and up to rounding the same pixels, in less time.

    Args:
        library: the donors.
        policy: the settings.
        density_smoothing: see :func:`~mmdefect.synthesis.location.empirical_density`.
    """

    def __init__(self, library: DefectLibrary, policy: PolicySpec | Mapping = PolicySpec(),
                 density_smoothing: float = 1.0) -> None:
        self.library = library
        self.policy = policy if isinstance(policy, PolicySpec) else PolicySpec.from_dict(policy)
        self.chooser = DonorChooser(library, self.policy)
        density = empirical_density(library.density, density_smoothing)
        self.densities = {c: density[c] for c in library.classes}
        self.limits = self.policy.max_boundary_shade, self.policy.max_boundary_cast
        self.ranges = OperationRanges(**self.policy.operations)
        self.source_ranges = OperationRanges(**self.policy.source_operations)

    def draw(self, background: Background, generator: torch.Generator, backend: str = 'torch') -> Draw:
        """Draw the defects of one picture.

        Args:
            background: the picture, without its pixels.
            generator: CPU generator of this picture.
            backend: how patches are warped, see the class.

        Raises:
            ValueError: if the backend is unknown.
        """
        if backend not in BACKENDS:
            raise ValueError(f'`backend` must be one of {", ".join(BACKENDS)}, got {backend!r}.')
        policy, drawn = self.policy, Draw()
        count = self.chooser.choose_number(float(uniforms(generator, 1)[0]))
        if count == 0:
            return drawn
        label = background.label
        codes = location_codes(label.shape) if background.codes is None else background.codes
        densities = self.densities if background.density is None else dict.fromkeys(self.library.classes,
                                                                                    background.density)
        search = PlaceSearch(codes, label, densities, policy.min_overlap, policy.max_existing_overlap,
                             policy.clearance)
        scale_yx, file_hw = _scale(background, search), background.file_hw
        for _ in range(count):
            result = self._draw_one(search, scale_yx, file_hw, generator, backend)
            if isinstance(result, str):
                drawn.skipped[result] += 1
            else:
                drawn.pastes.append(result)
        return drawn

    def apply(self, canvas: ArrayCanvas | TensorCanvas, draw: Draw, backend: str = 'torch'
              ) -> tuple[list[Instance], Counter]:
        """Write drawn defects into a picture and its label map.

        Returns:
            The defects that can be seen, and the number of skipped ones by reason.
        """
        instances, skipped = [], Counter(draw.skipped)
        for paste in draw.pastes:
            written = self.write(canvas, paste, backend)
            if written is None:
                skipped[INVISIBLE] += 1
            else:
                instances.append(written)
        return instances, skipped

    def __call__(self, image: Tensor, label: Tensor, generator: torch.Generator | Sequence[torch.Generator],
                 backgrounds: Background | Sequence[Background] | None = None) -> Synthesis:
        """Paste defects into a picture, or into each picture of a batch.

        Args:
            image: ``(C, H, W)`` or ``(B, C, H, W)`` float in [0, 1], RGB (or one channel).
            label: ``(H, W)`` or ``(B, H, W)`` int64.
            generator: one CPU generator; for a batch one for each sample.
            backgrounds: what is known of each picture; its whole frame is object when absent.

        Returns:
            New tensors; ``image`` keeps dtype and device.
        """
        if image.dim() == 4:
            return self._batch(image, label, generator, backgrounds)
        known = backgrounds or Background(label.cpu().numpy())
        canvas = TensorCanvas(image, label)
        instances, skipped = self.apply(canvas, self.draw(known, generator))
        return Synthesis(canvas.image, canvas.label, instances, skipped=dict(skipped))

    def replay(self, canvas: ArrayCanvas | TensorCanvas, instance: Instance, background: Background,
               backend: str = 'torch') -> Instance | None:
        """Write a recorded defect again: the same pixels on the same picture, with the same library.

        Args:
            canvas: the picture as it was before.
            instance: the record.
            background: what the draw knew of the picture: its location codes, and its label before anything was pasted.
            backend: that of the draw.
        """
        numbers = instance.parameters
        donor = int(numbers['donor'])
        fitted = prepare(self.library[donor], (numbers['fit_y'], numbers['fit_x']), operations_from(numbers),
                         self.policy.grow, backend)
        corner = int(numbers['top']), int(numbers['left'])
        allowed = background.label != IGNORE_LABEL
        if background.codes is not None:
            allowed &= background.codes >= FIRST_CODE
        mask = _trimmed(fitted.region, corner, allowed)
        return self.write(canvas, Paste(donor, instance.class_id, corner, fitted.patch, torch.from_numpy(mask),
                                         torch.from_numpy(fitted.core), instance.blend, dict(numbers)), backend)

    def _batch(self, image: Tensor, label: Tensor, generators: Sequence[torch.Generator],
               backgrounds: Sequence[Background] | None) -> Synthesis:
        if len(generators) != len(image):
            raise ValueError(f'`generator` must hold one generator for each sample, got {len(generators)} for '
                             f'{len(image)}; with a shared one batch mates would change a sample.')
        samples = [self(one, one_label, generator, background) for one, one_label, generator, background in zip(
            image, label, generators, backgrounds or [None] * len(image), strict=True)]
        skipped = sum((Counter(s.skipped) for s in samples), Counter())
        return Synthesis(torch.stack([s.image for s in samples]), torch.stack([s.label for s in samples]),
                         [s.instances for s in samples], skipped=dict(skipped))

    def _draw_one(self, search: PlaceSearch, scale_yx: tuple[float, float], file_hw: tuple[int, int] | None,
                  generator: torch.Generator, backend: str) -> Paste | str:
        policy = self.policy
        numbers = uniforms(generator, 3 + 4 * policy.tries)
        scale = math.sqrt(abs(scale_yx[0] * scale_yx[1]))
        choice = self.chooser.choose(numbers[:3 + policy.tries].tolist(), scale, search.codes.shape,
                                     file_hw is not None and search.affine is not None)
        if isinstance(choice, str):
            return choice
        donor = self.library[choice.donor]
        at_source = choice.place == 'source' and donor.source_hw == file_hw
        on_outline = donor.inside < policy.min_inside
        if on_outline and not at_source:
            return NO_POSE
        operations = sample_operations(generator, self.source_ranges if on_outline else self.ranges)
        fitted = prepare(donor, scale_yx, operations, policy.grow, backend)
        shape = fitted.region
        if not shape.any():
            return VANISHED
        tries = numbers[3 + policy.tries:].reshape(policy.tries, 3)
        if at_source:
            corner = search.draw_near(shape, middle_of(donor), (policy.source_jitter * _normal(tries)).tolist())
        else:
            corner = search.draw(shape, None if choice.place == 'even' else donor.class_id, tries.tolist())
        if isinstance(corner, str):
            return corner
        shape = _trimmed(shape, corner, search.allowed)
        search.occupy(shape, corner)
        parameters = dict(donor=float(choice.donor), top=float(corner[0]), left=float(corner[1]),
                          fit_y=float(scale_yx[0]), fit_x=float(scale_yx[1]), **numbers_of(operations))
        return Paste(choice.donor, donor.class_id, corner, fitted.patch, torch.from_numpy(shape),
                     torch.from_numpy(fitted.core), policy.outline_blend if on_outline else choice.blend, parameters)

    def write(self, canvas: ArrayCanvas | TensorCanvas, paste: Paste, backend: str = 'torch') -> Instance | None:
        """Write one drawn defect; ``None`` when too little of it can be seen, and then nothing is changed."""
        if backend == 'numpy':
            return self._write_arrays(canvas, paste)
        policy = self.policy
        # The patch has a ring of one pixel around the defect; what leaves the frame was cut off the mask before.
        frame, part = overlap(paste.mask.shape, paste.corner, canvas.size_hw)
        target = canvas.read(frame)
        mask, core, source = paste.mask[part], paste.core[part], paste.patch[:, part[0], part[1]]
        if target.shape[0] == 1:
            source = source.mean(0, keepdim=True)
        mask, core, source = mask.to(target.device), core.to(target.device), source.to(target)
        factor, limited = None, 0.0
        if paste.blend.startswith('poisson'):
            factor = PoissonFactor(mask)
            source, limited = _limit(target, source, factor, self.limits)
        pixels = canvas.rounded(blend(target, source, mask[None], paste.blend, factor=factor))
        visible = _visible(target, pixels, mask, core, policy)
        area = int(visible.sum())
        if area < max(1, policy.min_visible * int((mask & core).sum())):
            return None
        canvas.write(frame, pixels, mask)
        canvas.write_label(frame, paste.class_id, visible)
        return self._record(paste, frame, visible.cpu().numpy(), area, limited)

    def _write_arrays(self, canvas: ArrayCanvas, paste: Paste) -> Instance | None:
        if not isinstance(canvas, ArrayCanvas):
            raise TypeError(f"`canvas` must be an ArrayCanvas for backend='numpy', got {type(canvas).__name__}; take "
                            "backend='torch'.")
        frame, part = overlap(paste.mask.shape, paste.corner, canvas.size_hw)
        target, mask, core = canvas.image[frame], paste.mask.numpy()[part], paste.core.numpy()[part]
        source = paste.patch.permute(1, 2, 0).numpy()[part]
        source = source.mean(2, keepdims=True) if target.shape[2] == 1 else source[..., ::-1]
        old = target[mask]
        new, limited = composed(target, source, mask, paste.blend, self.limits)
        visible = array_visible(old, new, mask, core, self.policy)
        area = int(np.count_nonzero(visible))
        if area < max(1, self.policy.min_visible * np.count_nonzero(mask & core)):
            return None
        target[mask] = new
        label = canvas.label[frame]
        label[visible & (label != IGNORE_LABEL)] = paste.class_id
        return self._record(paste, frame, visible, area, limited)

    def _record(self, paste: Paste, frame: tuple[slice, slice], visible: ndarray, area: int,
                limited: float) -> Instance:
        rows, columns = np.flatnonzero(visible.any(1)), np.flatnonzero(visible.any(0))
        top, left = frame[0].start, frame[1].start
        box = (top + int(rows[0]), left + int(columns[0]), top + int(rows[-1]) + 1, left + int(columns[-1]) + 1)
        return Instance(paste.class_id, box, area, self.library.source_of(paste.donor), 'paste', paste.blend,
                        {**paste.parameters, **({LIMITED: limited} if limited else {})})


def _visible(target: Tensor, pixels: Tensor, mask: Tensor, core: Tensor, policy: PolicySpec) -> Tensor:
    """Return the pixels that get the label of the defect, ``(h, w)`` bool."""
    changed = ((pixels - target).abs().amax(0) > policy.tolerance) & mask
    if policy.label == 'visible' or policy.label_radius < 1:
        return changed
    size = 2 * policy.label_radius + 1
    near = torch.nn.functional.max_pool2d(changed[None, None].float(), size, 1, policy.label_radius)[0, 0] > 0
    return changed | (near & mask & core)


def _limit(target: Tensor, source: Tensor, factor: PoissonFactor, limits: tuple[float, float]
           ) -> tuple[Tensor, float]:
    """Return the source with a limited step to the target beside the mask, and the share of limited pixels."""
    arrays = (np.ascontiguousarray(t.detach().cpu().numpy().transpose(1, 2, 0)) for t in (target, source))
    limited, share = limit_source(*arrays, factor, limits)
    return (torch.from_numpy(limited.transpose(2, 0, 1)).to(source) if share else source), share


def _scale(background: Background, search: PlaceSearch) -> tuple[float, float]:
    """Return pixels of the picture per pixel of its file, down and across; negative where it is flipped."""
    if background.codes is None or background.file_hw is None or search.affine is None:
        return background.scale_yx
    linear = search.affine[:, :2] * (SIDE / background.file_hw[0], SIDE / background.file_hw[1])
    return float(linear[0, 0]), float(linear[1, 1])


def _trimmed(mask: ndarray, corner: tuple[int, int], allowed: ndarray) -> ndarray:
    """Return the mask without what lies off the object or outside of the frame."""
    frame, part = overlap(mask.shape, corner, allowed.shape)
    kept = np.zeros_like(mask)
    kept[part] = mask[part] & allowed[frame]
    return kept


def _normal(tries: ndarray) -> ndarray:
    """Turn rows of uniform numbers into pairs of normal ones (Box and Muller)."""
    radius = np.sqrt(-2 * np.log1p(-tries[:, :1]))
    angle = 2 * np.pi * tries[:, 1:2]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], 1)
