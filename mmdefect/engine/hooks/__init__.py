from .calibration_hook import CalibrationHook
from .channels_last_hook import ChannelsLastHook
from .class_check_hook import ClassCheckHook
from .class_prior_hook import ClassPriorHook, set_class_prior
from .cutpaste_backbone_hook import CutPasteBackboneHook
from .freeze_backbone_hook import FreezeBackboneHook
from .label_extras_hook import LabelExtrasHook
from .policy_hook import PolicyHook
from .prediction_sheet_hook import PredictionSheetHook
from .selection_check_hook import SelectionCheckHook
from .sync_statistics_hook import SyncStatisticsHook

__all__ = [
    'CalibrationHook',
    'ChannelsLastHook',
    'ClassCheckHook',
    'ClassPriorHook',
    'CutPasteBackboneHook',
    'FreezeBackboneHook',
    'LabelExtrasHook',
    'PolicyHook',
    'PredictionSheetHook',
    'SelectionCheckHook',
    'SyncStatisticsHook',
    'set_class_prior',
]
