from .defect import DefectMetric
from .view_accuracy import ViewAccuracy

__all__ = ['DefectMetric', 'ViewAccuracy']
