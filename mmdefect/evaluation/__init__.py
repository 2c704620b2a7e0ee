from .defect_metric import DefectMetric
from .view_accuracy import ViewAccuracy

__all__ = ['DefectMetric', 'ViewAccuracy']
