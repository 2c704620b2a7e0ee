"""Try things in fresh interpreters, so that nothing that is broken can break the doctor."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

TIMEOUT_SECONDS = 300

_CORE = """
import json, sys, torch
device = dict(built_for=torch.version.cuda or torch.version.hip or 'CPU', gpus=[])
try:
    device['gpus'] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
except RuntimeError as err:
    device['error'] = str(err)
print(json.dumps(device))
sys.stdout.flush()
import cv2, filelock, matplotlib, numpy, PIL, prettytable, rich, scipy, torchvision
from mmdefect import compat
compat.apply()
with compat.quiet_imports():
    import mmdefect.registration
from mmdefect.apis import load_config
from mmdefect.registry import MODELS
from mmseg.structures import SegDataSample
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
cfg = load_config(compat.config_root('mmdefect') / 'fast_scnn' / 'fast-scnn_baseline_demo.py')
cfg.model.data_preprocessor.size = (64, 64)
init_default_scope(cfg.default_scope)
model = MODELS.build(cfg.model)
labels = [SegDataSample(gt_sem_seg=PixelData(data=torch.zeros(1, 64, 64, dtype=torch.long))) for _ in range(2)]
losses = model(torch.rand(2, 3, 64, 64), labels, mode='loss')
sum(v for k, v in losses.items() if 'loss' in k).backward()
"""

_RUNTIME = 'import cv2, numpy; import mmdefect.deployment.predict, mmdefect.deployment.predictor'

#: Tried when the core does not run, to find the package at fault.
DIAGNOSIS = {
    'numpy': 'import numpy',
    'torch': 'import torch; torch.ones(2) + 1',
    'torchvision': 'import torchvision; from torchvision.ops import nms',
    'opencv-python': 'import cv2',
    'scipy': 'import scipy.ndimage, scipy.sparse.linalg',
    'matplotlib': 'import matplotlib.figure',
    'mmengine': 'import mmengine.runner',
    'mmcv': 'import mmcv.cnn, mmcv.transforms',
    'mmseg': 'from mmdefect import compat; compat.apply(); import mmseg.models, mmseg.datasets',
}

OPTIONAL = {
    'pretrain': 'import sklearn.manifold; from mmdefect import compat; compat.apply(); import mmpretrain.models',
    'generation': 'import accelerate, safetensors; from diffusers import UNet2DConditionModel; '
    'from transformers import CLIPTextModel',
    'runtime': 'import onnxruntime; onnxruntime.get_available_providers()',
    'export': 'import onnx, onnxscript, onnxruntime, torch.onnx',
    'serve': 'import fastapi, uvicorn, prometheus_client, python_multipart, onnxruntime',
    'ray': 'import ray.data',
    'compiled operators': 'import torch; from mmcv.ops import get_compiler_version; get_compiler_version()',
}


@dataclass(frozen=True)
class Outcome:
    """What a probe printed and, if it failed, the end of its traceback."""

    ok: bool
    output: str = ''
    error: str = ''

    @property
    def last_line(self) -> str:
        lines = [line for line in self.error.splitlines() if line.strip()]
        return lines[-1].strip()[:300] if lines else 'no message'


def probe(code: str) -> Outcome:
    """Run Python code in a fresh interpreter that finds this copy of mmdefect."""
    here = str(Path(__file__).resolve().parents[2])
    paths = [p for p in os.environ.get('PYTHONPATH', '').split(os.pathsep) if p]
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join([*paths, here]), 'MPLBACKEND': 'Agg', 'PYTHONWARNINGS': 'ignore'}
    try:
        done = subprocess.run(
            [sys.executable, '-c', code], capture_output=True, text=True, env=env, timeout=TIMEOUT_SECONDS
        )
    except subprocess.TimeoutExpired:
        return Outcome(False, error=f'gave no answer within {TIMEOUT_SECONDS} seconds')
    if done.returncode < 0:
        return Outcome(False, done.stdout, f'{done.stderr}\nkilled by signal {-done.returncode}')
    return Outcome(done.returncode == 0, done.stdout, done.stderr if done.returncode else '')


def probe_core() -> Outcome:
    """Import everything the core needs and do one training step on random numbers; prints the device as JSON first."""
    return probe(_CORE)


def probe_runtime() -> Outcome:
    """Import what predicts from exported files."""
    return probe(_RUNTIME)


def probe_all(codes: dict[str, str]) -> dict[str, Outcome]:
    """Run several probes, two at a time: each of them may load torch."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        return dict(zip(codes, pool.map(probe, codes.values()), strict=True))
