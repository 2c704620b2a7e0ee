from .cut_paste import CutPaste
from .cutpaste_views import PackCutPasteViews
from .defect_crop import DefectCrop
from .ignore_band import IgnoreBand
from .loading import LoadDefectAnnotations, LoadObjectMask
from .location import LoadLocationMap
from .packing import PackSynthesisInputs
from .packing_extras import PackDefectInputs
from .paste_defects import PasteDefects
from .perlin_anomaly import PerlinAnomaly
from .synthesize import SynthesizeDefects

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
