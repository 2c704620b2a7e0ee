"""Prediction on the line: needs NumPy, OpenCV and, for exported files, ONNX Runtime; never PyTorch by itself."""

from mmdefect.deployment.predictor import load_predictor
from mmdefect.deployment.types import Defect, ModelInfo, Prediction, Predictor

__all__ = ['Defect', 'ModelInfo', 'Prediction', 'Predictor', 'load_predictor']
