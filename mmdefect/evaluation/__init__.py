from .defect_metric import DefectMetric

__all__ = ['DefectMetric']
