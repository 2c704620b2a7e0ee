from .base import DefectDataset, defect_palette
from .transforms import *  # noqa: F401,F403

__all__ = ['DefectDataset', 'defect_palette']
