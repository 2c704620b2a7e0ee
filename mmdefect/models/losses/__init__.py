from .focal import SigmoidFocalLoss, SoftmaxFocalLoss
from .label_extras import LabelExtras, attach_label_extras
from .region_losses import CenterlineDiceLoss, DefectDiceLoss, SignedDistanceLoss, TverskyFocalLoss
from .weak_box import WeakBoxLoss
from .wrappers import SumLoss, WeightedSampleLoss

__all__ = [
    'CenterlineDiceLoss',
    'DefectDiceLoss',
    'LabelExtras',
    'SigmoidFocalLoss',
    'SignedDistanceLoss',
    'SoftmaxFocalLoss',
    'SumLoss',
    'TverskyFocalLoss',
    'WeakBoxLoss',
    'WeightedSampleLoss',
    'attach_label_extras',
]
