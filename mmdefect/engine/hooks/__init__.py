from .calibration_hook import CalibrationHook
from .check_hooks import ClassCheckHook, SelectionCheckHook
from .loss_hooks import ClassPriorHook, LabelExtrasHook, set_class_prior
from .model_hooks import (
    ChannelsLastHook,
    CutPasteBackboneHook,
    FreezeBackboneHook,
    LongerScheduleHook,
    SyncStatisticsHook,
    TileSplitHook,
)
from .normality_hook import NormalityHook
from .policy_hook import PolicyHook
from .prediction_sheet_hook import PredictionSheetHook

__all__ = [
    'CalibrationHook',
    'ChannelsLastHook',
    'ClassCheckHook',
    'ClassPriorHook',
    'CutPasteBackboneHook',
    'FreezeBackboneHook',
    'LabelExtrasHook',
    'LongerScheduleHook',
    'NormalityHook',
    'PolicyHook',
    'PredictionSheetHook',
    'SelectionCheckHook',
    'SyncStatisticsHook',
    'TileSplitHook',
    'set_class_prior',
]
