from .centerline_dice_loss import CenterlineDiceLoss
from .defect_dice_loss import DefectDiceLoss
from .label_extras import LabelExtras, attach_label_extras
from .sigmoid_focal_loss import SigmoidFocalLoss
from .signed_distance_loss import SignedDistanceLoss
from .softmax_focal_loss import SoftmaxFocalLoss
from .sum_loss import SumLoss
from .tversky_focal_loss import TverskyFocalLoss
from .weak_box_loss import WeakBoxLoss
from .weighted_sample_loss import WeightedSampleLoss

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
