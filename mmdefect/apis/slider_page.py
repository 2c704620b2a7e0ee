"""A self-contained page: one defect on one background, and a slider for each operation's range."""

from __future__ import annotations

import base64
import html
import json

import cv2
import numpy as np
from numpy import ndarray

from mmdefect.apis.browse import make_samples
from mmdefect.synthesis.augment import OPERATIONS, VALUES
from mmdefect.synthesis.canvas import ArrayCanvas
from mmdefect.synthesis.donor_fitting import prepare
from mmdefect.synthesis.drawn_operations import operations_from
from mmdefect.synthesis.engine import Paste, PasteEngine
from mmdefect.visualization.grid import fit_cell, outline, window_around

STEPS = 9
_IDENTITY = dict(
    rotate=0.0,
    shear_x=0.0,
    shear_y=0.0,
    scale_x=1.0,
    scale_y=1.0,
    brightness=1.0,
    contrast=1.0,
    saturation=1.0,
    hue=0.0,
    flip_x=1.0,
    flip_y=1.0,
    elastic=0.0,
)


def slider_page(dataset, step, seed: int = 0, side: int = 280) -> str:
    """Return the page as HTML; every position of every slider is rendered by the engine.

    Raises:
        ValueError: if the recipe pastes no defects.
    """
    engines = [t.engine for t in step.transforms if hasattr(t, 'engine')]
    if not engines:
        raise ValueError('a page of sliders needs a recipe with PasteDefects; leave out --page.')
    engine = engines[0]
    for sample in make_samples(dataset, step, 40, seed):
        records = [r for r in sample.instances if r['generator'] == 'paste' and r['area'] >= 40]
        if records:
            break
    else:
        raise ValueError('no defect of at least 40 pixels was made; choose another --seed.')
    record, ranges = records[0], engine.planner.ranges
    frames: dict[str, list[str]] = {}
    values: dict[str, list[float]] = {}
    for name in OPERATIONS:
        low, high = (float(v) for v in getattr(ranges, name))
        values[name] = np.linspace(low, high, STEPS).round(3).tolist()
        frames[name] = [_render(engine, sample, record, name, value, side) for value in values[name]]
    return (
        _PAGE.replace('__FRAMES__', json.dumps(frames))
        .replace('__VALUES__', json.dumps(values))
        .replace('__NAME__', html.escape(record['source'].rsplit('/', 1)[-1]))
    )


def _render(engine: PasteEngine, sample, record: dict, name: str, value: float, side: int) -> str:
    numbers = dict(_IDENTITY, **{n: value for n in VALUES if n == name or n.rsplit('_', 1)[0] == name})
    parameters = record['parameters']
    fitted = prepare(
        engine.library[int(parameters['donor'])],
        (parameters['fit_y'], parameters['fit_x']),
        operations_from(numbers),
        engine.policy.grow,
    )
    left, top, right, bottom = record['box_xyxy']
    corner = (top + bottom - fitted.core.shape[0]) // 2, (left + right - fitted.core.shape[1]) // 2
    image = np.ascontiguousarray(sample.before[..., ::-1])
    label = np.zeros(sample.label.shape, np.uint8)
    engine.write(
        ArrayCanvas(image, label),
        Paste(
            int(parameters['donor']),
            record['class_index'],
            corner,
            fitted.patch,
            fitted.region,
            fitted.core,
            record['blend'],
            numbers,
        ),
    )
    window = window_around(record['box_xyxy'], label.shape)
    result, palette = image[..., ::-1], [(0, 0, 0)] + [(255, 0, 0)] * 254
    return _jpeg(np.concatenate([fit_cell(p[window], side) for p in (result, outline(result, label, palette))], 1))


def _jpeg(photo: ndarray) -> str:
    _, data = cv2.imencode('.jpg', np.ascontiguousarray(photo[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 85])
    return 'data:image/jpeg;base64,' + base64.b64encode(data.tobytes()).decode()


_PAGE = """<!doctype html><meta charset="utf-8"><title>Operations on a defect</title>
<style>body{font:15px sans-serif;margin:24px;max-width:900px}label{display:grid;grid-template-columns:110px 1fr 70px;
gap:12px;align-items:center;margin:6px 0}img{display:block;margin:12px 0;border:1px solid #ccc}</style>
<h1>Operations on a defect</h1><p>Defect of __NAME__; left the image, right with its label. Each slider runs over the
range of the recipe, the other operations off.</p><img id="view" alt="defect"><div id="sliders"></div>
<script>const frames=__FRAMES__,values=__VALUES__,view=document.getElementById('view'),
box=document.getElementById('sliders');
for(const name of Object.keys(frames)){const line=document.createElement('label'),text=document.createElement('span'),
slider=document.createElement('input'),value=document.createElement('output');text.textContent=name.replace('_',' ');
slider.type='range';slider.min=0;slider.max=frames[name].length-1;slider.value=(frames[name].length-1)/2;
const show=()=>{view.src=frames[name][slider.value];value.textContent=values[name][slider.value]};
slider.oninput=show;value.textContent=values[name][slider.value];line.append(text,slider,value);box.append(line);
if(!view.src)show()}</script>
"""
