"""Prediction with PyTorch and export; what needs no PyTorch is in :mod:`mmdefect.deployment`."""

from .predictor import DefectInferencer

__all__ = ['DefectInferencer']
