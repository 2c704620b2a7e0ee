from .class_check_hook import ClassCheckHook
from .class_prior_hook import ClassPriorHook, set_class_prior
from .label_extras_hook import LabelExtrasHook
from .prediction_sheet_hook import PredictionSheetHook

__all__ = ['ClassCheckHook', 'ClassPriorHook', 'LabelExtrasHook', 'PredictionSheetHook', 'set_class_prior']
