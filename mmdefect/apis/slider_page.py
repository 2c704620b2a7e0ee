"""A self-contained page: one defect on one background, and a slider for each operation's range."""

import cv2
import numpy as np
from numpy import ndarray

from mmdefect.apis.synthesize import make_samples
from mmdefect.synthesis.engine import PasteEngine
from mmdefect.synthesis.operations import OPERATIONS, VALUES, Operations
from mmdefect.synthesis.places import overlap
from mmdefect.synthesis.sampler import Paste
from mmdefect.visualization.grid import fit_cell, outline, window_around
from mmdefect.visualization.pages import data_uri, render_page

STEPS = 9
_IDENTITY = {
    **dict.fromkeys(('rotate', 'shear_x', 'shear_y', 'hue', 'elastic'), 0.0),
    **dict.fromkeys(('scale_x', 'scale_y', 'brightness', 'contrast', 'saturation', 'flip_x', 'flip_y'), 1.0),
}


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
    record, ranges = records[0], engine.sampler.ranges
    frames: dict[str, list[str]] = {}
    values: dict[str, list[float]] = {}
    for name in OPERATIONS:
        low, high = (float(v) for v in getattr(ranges, name))
        values[name] = np.linspace(low, high, STEPS).round(3).tolist()
        frames[name] = [_render(engine, sample, record, name, value, side) for value in values[name]]
    name = record['source'].rsplit('/', 1)[-1]
    return render_page('sliders', name=name, frames=frames, values=values)


def _render(engine: PasteEngine, sample, record: dict, name: str, value: float, side: int) -> str:
    numbers = dict(_IDENTITY, **{n: value for n in VALUES if n == name or n.rsplit('_', 1)[0] == name})
    donor, scale_yx = int(record['parameters']['donor']), tuple(record['parameters'][n] for n in ('fit_y', 'fit_x'))
    fitted = engine.fit(donor, scale_yx, Operations.from_parameters(numbers))
    left, top, right, bottom = record['box_xyxy']
    corner = (top + bottom - fitted.core.shape[0]) // 2, (left + right - fitted.core.shape[1]) // 2
    image, label = np.ascontiguousarray(sample.before[..., ::-1]), np.zeros(sample.label.shape, np.uint8)
    windows = overlap(fitted.region.shape, corner, label.shape)
    facts = donor, record['source'], record['class_index'], fitted, corner, fitted.region
    engine.write(image, label, [Paste(*facts, *windows, record['blend'], numbers)])
    window = window_around(record['box_xyxy'], label.shape)
    result, palette = image[..., ::-1], [(0, 0, 0)] + [(255, 0, 0)] * 254
    return _jpeg(
        np.concatenate([fit_cell(p[window], (side, side)) for p in (result, outline(result, label, palette))], 1)
    )


def _jpeg(image: ndarray) -> str:
    _, data = cv2.imencode('.jpg', np.ascontiguousarray(image[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, 85])
    return data_uri(data.tobytes(), 'jpeg')
