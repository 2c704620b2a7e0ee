from .defect_sampler import DefectSampler

__all__ = ['DefectSampler']
