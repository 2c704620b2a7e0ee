from .class_check_hook import ClassCheckHook
from .prediction_sheet_hook import PredictionSheetHook

__all__ = ['ClassCheckHook', 'PredictionSheetHook']
