from .loading import LoadDefectAnnotations, LoadObjectMask

__all__ = ['LoadDefectAnnotations', 'LoadObjectMask']
