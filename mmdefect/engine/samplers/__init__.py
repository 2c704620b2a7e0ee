from .class_aware_sampler import ClassAwareSampler
from .defect_sampler import DefectSampler
from .mixing_sampler import MixingSampler

__all__ = ['ClassAwareSampler', 'DefectSampler', 'MixingSampler']
