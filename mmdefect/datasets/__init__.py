from .base import DefectDataset, defect_palette
from .blade_wta import BladeWTADataset
from .combined import CombinedDefectDataset
from .folder import FolderDefectDataset
from .generated import GeneratedDefectDataset, MixedDefectDataset
from .good_images import GoodImageDataset
from .mvtec import MVTecDataset
from .transforms import *  # noqa: F403

__all__ = [
    'BladeWTADataset',
    'CombinedDefectDataset',
    'DefectDataset',
    'FolderDefectDataset',
    'GeneratedDefectDataset',
    'GoodImageDataset',
    'MVTecDataset',
    'MixedDefectDataset',
    'defect_palette',
]
