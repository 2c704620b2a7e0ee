"""Metrics as plain functions over tensors; nothing here imports OpenMMLab."""
