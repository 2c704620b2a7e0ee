from .class_aware_sampler import ClassAwareSampler
from .defect_sampler import DefectSampler
from .mixing_sampler import MixingSampler
from .part_share_sampler import PartShareSampler

__all__ = ['ClassAwareSampler', 'DefectSampler', 'MixingSampler', 'PartShareSampler']
