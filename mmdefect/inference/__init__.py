"""Prediction with PyTorch and export; what needs no PyTorch is in :mod:`mmdefect.deployment`."""

from .predictor import AnomalyInferencer, DefectInferencer, TorchPredictor

__all__ = ['AnomalyInferencer', 'DefectInferencer', 'TorchPredictor']
