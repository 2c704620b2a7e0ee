"""Defects by kind: a sampler draws a small record of parameters, and the record's ``apply`` edits the surface."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from numpy.random import Generator

from mmdefect.demo.defects.fracture import sample_broken_corner, sample_chip
from mmdefect.demo.defects.particle import sample_particles
from mmdefect.demo.defects.pit import sample_hole, sample_pits
from mmdefect.demo.defects.scratch import sample_cut, sample_scratch
from mmdefect.demo.defects.stain import sample_stain
from mmdefect.demo.defects.yarn import sample_missing_yarn
from mmdefect.demo.types import Scene, Surface

__all__ = ['SAMPLERS', 'Defect']


class Defect(Protocol):
    """What every record of defect parameters can do."""

    def apply(self, surface: Surface, scene: Scene) -> Surface:
        """Return a new surface that carries the defect; the argument stays as it is."""


Sampler = Callable[[Generator, Scene], Defect]

#: Sampler of each kind of defect. ``missing`` is a corner of the object that is gone, ``yarn`` a gap in a weave.
SAMPLERS: dict[str, Sampler] = {
    'scratch': sample_scratch,
    'cut': sample_cut,
    'chip': sample_chip,
    'missing': sample_broken_corner,
    'yarn': sample_missing_yarn,
    'stain': sample_stain,
    'pit': sample_pits,
    'hole': sample_hole,
    'particle': sample_particles,
}
