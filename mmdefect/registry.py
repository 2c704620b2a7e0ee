"""The registries of mmseg that mmdefect's components join.

Everything registers into scope ``mmseg``: a scope of our own would have to be importable wherever a
config is read, which is what breaks other plugins ("failed to search registry with scope ...").
"""

from mmengine.registry import init_default_scope

from mmdefect import compat

compat.apply()  # who imports an adapter alone gets the same mmseg as who imports mmdefect.registration

from mmseg.registry import (  # noqa: E402  (the shims come first)
    DATA_SAMPLERS,
    DATASETS,
    HOOKS,
    INFERENCERS,
    LOOPS,
    METRICS,
    MODELS,
    OPTIM_WRAPPERS,
    PARAM_SCHEDULERS,
    TRANSFORMS,
    VISUALIZERS,
    WEIGHT_INITIALIZERS,
)

__all__ = [
    'DATASETS',
    'DATA_SAMPLERS',
    'HOOKS',
    'INFERENCERS',
    'LOOPS',
    'METRICS',
    'MODELS',
    'OPTIM_WRAPPERS',
    'PARAM_SCHEDULERS',
    'TRANSFORMS',
    'VISUALIZERS',
    'WEIGHT_INITIALIZERS',
    'init_default_scope',
]
