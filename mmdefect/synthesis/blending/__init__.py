"""Composition of a defect with a background: alpha, feathered, Poisson and spectral."""

from mmdefect.synthesis.blending.alpha import alpha_blend, feather, feathered_blend
from mmdefect.synthesis.blending.domain import PoissonFactor, factorize
from mmdefect.synthesis.blending.methods import blend
from mmdefect.synthesis.blending.poisson import poisson_blend
from mmdefect.synthesis.blending.spectral import spectral_blend
from mmdefect.synthesis.blending.visibility import visible_mask

__all__ = [
    'PoissonFactor',
    'alpha_blend',
    'blend',
    'factorize',
    'feather',
    'feathered_blend',
    'poisson_blend',
    'spectral_blend',
    'visible_mask',
]
