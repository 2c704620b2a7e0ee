from .backbone_hooks import CutPasteBackboneHook, FreezeBackboneHook
from .calibration_hook import CalibrationHook
from .channels_last_hook import ChannelsLastHook
from .check_hooks import ClassCheckHook, SelectionCheckHook
from .loss_hooks import ClassPriorHook, LabelExtrasHook, set_class_prior
from .policy_hook import PolicyHook
from .prediction_sheet_hook import PredictionSheetHook
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
