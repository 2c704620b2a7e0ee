"""Transforms of the training pipelines; importing this registers them."""

from .defect_crop import DefectCrop
from .ignore_band import IgnoreBand
from .loading import LoadDefectAnnotations, LoadLocationMap, LoadObjectMask
from .make_defects import CutPaste, PasteDefects, PerlinAnomaly, SynthesizeDefects
from .packing import PackCutPasteViews, PackDefectInputs, PackSynthesisInputs

__all__ = [
    'CutPaste',
    'DefectCrop',
    'IgnoreBand',
    'LoadDefectAnnotations',
    'LoadLocationMap',
    'LoadObjectMask',
    'PackCutPasteViews',
    'PackDefectInputs',
    'PackSynthesisInputs',
    'PasteDefects',
    'PerlinAnomaly',
    'SynthesizeDefects',
]
