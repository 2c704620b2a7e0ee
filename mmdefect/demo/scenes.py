"""The things on the inspection table: ground sheet metal, woven fabric, and a cutting insert.

The metal lies under a bar lamp. The fabric is made of round yarns that pass over and under each other. The insert is a
dark rhombic carbide plate with chip breakers and a hole, on a back-lit white table.
"""

import functools
from dataclasses import replace

import cv2
import numpy as np
from numpy import ndarray
from numpy.random import Generator

from mmdefect.demo.noise import fractal_noise, smooth_noise, smoothstep, streaks, turn_matrix, unit_grid, white_noise
from mmdefect.demo.scene import Camera, Light, Material, Scene, Surface

METAL = Material(
    fresh=(0.78, 0.77, 0.75),
    backing=(0.035, 0.028, 0.024),
    particle=((0.09, 0.08, 0.07), (0.55, 0.40, 0.16), (0.75, 0.76, 0.78)),
    stain=((0.55, 0.44, 0.30), (0.42, 0.40, 0.40), (0.62, 0.40, 0.24)),
)


def metal_scene(rng: Generator, size_hw: tuple[int, int]) -> Scene:
    """Return one piece of ground metal: grinding lines, slight waviness, a soft band of glare."""
    unit = min(size_hw) / 256.0
    angle = float(rng.normal(0.0, 0.025))
    fine = streaks(rng, size_hw, 26 * unit, angle)
    coarse = streaks(rng, size_hw, 90 * unit, angle)
    # A worn belt leaves a few deep lines between many shallow ones.
    deep = np.clip(np.abs(coarse) - 1.6, 0.0, 2.0) * np.sign(coarse)
    waves = smooth_noise(rng, size_hw, 70 * unit)
    shallow = fine + 0.8 * coarse
    relief = 0.16 * shallow + 0.42 * deep + 0.8 * unit * waves

    blotch = fractal_noise(rng, size_hw, 40 * unit, 3)
    tone = 0.25 * (1.0 + 0.030 * shallow + 0.05 * deep + 0.025 * blotch + 0.03 * white_noise(rng, size_hw))
    tint = np.array([1.0, 0.985, 0.955], np.float32) + rng.normal(0, 0.008, 3).astype(np.float32)
    albedo = np.clip(tone[..., None] * tint, 0.02, 1.0).astype(np.float32)
    gloss = np.clip(0.42 + 0.02 * shallow - 0.02 * blotch, 0.0, 1.0).astype(np.float32)

    y, x = unit_grid(size_hw)
    along, across = rng.uniform(-0.22, 0.22), rng.uniform(-0.16, 0.16)
    field = 1.0 + along * x + across * y - 0.30 * (x * x + y * y)
    field = field.astype(np.float32) * np.float32(rng.uniform(0.92, 1.06))
    camera = Camera.sample(rng, field, (0.55, 0.75))
    tilt = float(rng.uniform(-0.25, 0.25))
    key = np.array([tilt, -0.45, 0.86]) / np.linalg.norm([tilt, -0.45, 0.86])
    return Scene.of_texture(
        Surface(relief.astype(np.float32), albedo, gloss, np.ones(size_hw, np.float32)),
        lights=(Light(tuple(float(v) for v in key), 0.62, 0.75),),
        ambient=0.40,
        lobe=(0.26, 0.36),
        bend=0.45,
        cavity=0.0,
        camera=camera,
        material=METAL,
    )


#: Yarns along the short side of the image.
YARNS = 30

CARPET = Material(
    fresh=(0.42, 0.38, 0.33),
    backing=(0.050, 0.042, 0.034),
    particle=((0.62, 0.63, 0.66), (0.58, 0.42, 0.18), (0.70, 0.70, 0.68)),
    stain=((0.45, 0.30, 0.22), (0.36, 0.38, 0.48), (0.60, 0.34, 0.30)),
)


def _yarn(across: ndarray, along: ndarray, rng: Generator) -> tuple[ndarray, ndarray]:
    """Return the round profile in [0, 1] and the relative brightness of yarns numbered by ``floor(across)``."""
    index = np.floor(across)
    offset = 2.0 * (across - index - 0.5)
    profile = np.sqrt(np.maximum(1.0 - offset * offset, 0.0))
    number = index.astype(np.int32)
    number -= int(number.min())
    per_yarn = rng.normal(0.0, 0.06, int(number.max()) + 1).astype(np.float32)[number]
    # Twist: fibres cross the yarn at an angle, so brightness runs along oblique lines.
    phase = rng.uniform(0, 2 * np.pi, int(number.max()) + 1).astype(np.float32)[number]
    twist = 0.07 * np.sin(2 * np.pi * (2.1 * along + 0.55 * offset) + phase)
    return profile, per_yarn + twist


def carpet_scene(rng: Generator, size_hw: tuple[int, int]) -> Scene:
    """Return one piece of twill fabric with uneven yarns and loose fibres."""
    unit = min(size_hw) / 256.0
    pitch = min(size_hw) / YARNS
    y, x = unit_grid(size_hw)
    angle = float(rng.normal(0.0, 0.02))
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    wobble_u = 0.22 * smooth_noise(rng, size_hw, 42 * unit) + 0.05 * smooth_noise(rng, size_hw, 9 * unit)
    wobble_v = 0.22 * smooth_noise(rng, size_hw, 42 * unit) + 0.05 * smooth_noise(rng, size_hw, 9 * unit)
    u = YARNS * (cos * x + sin * y) + rng.uniform(0, 1) + wobble_u
    v = YARNS * (cos * y - sin * x) + rng.uniform(0, 1) + wobble_v

    warp, warp_tone = _yarn(u, v, rng)
    weft, weft_tone = _yarn(v, u, rng)
    # 2/2 twill: a yarn passes over two and under two, each row shifted by one.
    lift = np.cos(0.5 * np.pi * (u - v) + 0.25 * np.pi).astype(np.float32)
    warp_height = 0.55 * warp + 0.62 * lift
    weft_height = 0.55 * weft - 0.62 * lift
    on_top = warp_height > weft_height
    height = np.maximum(warp_height, weft_height)

    fuzz = white_noise(rng, size_hw)
    tone = np.where(on_top, warp_tone, weft_tone) + 0.05 * smooth_noise(rng, size_hw, 60 * unit) + 0.07 * fuzz
    warp_rgb = np.array([0.250, 0.232, 0.210], np.float32)
    weft_rgb = np.array([0.325, 0.300, 0.265], np.float32)
    albedo = np.where(on_top[..., None], warp_rgb, weft_rgb) * (1.0 + tone)[..., None]
    relief = (0.42 * pitch * height + 0.10 * fuzz).astype(np.float32)

    along, across = rng.uniform(-0.15, 0.15, 2)
    field = rng.uniform(0.92, 1.06) * (1.0 + along * x + across * y - 0.25 * (x * x + y * y))
    camera = Camera.sample(rng, field, (0.6, 0.8))
    albedo = np.clip(albedo, 0.01, 1.0).astype(np.float32)
    return Scene.of_texture(
        Surface(relief, albedo, np.full(size_hw, 0.015, np.float32), np.ones(size_hw, np.float32)),
        lights=(Light((-0.42, -0.48, 0.77), 0.62, 0.4),),
        ambient=0.62,
        lobe=(0.5, 0.5),
        bend=0.0,
        cavity=1.1,
        camera=camera,
        material=replace(CARPET, grain_angle=angle, pitch=pitch),
    )


#: Half diagonals of the rhombus, corner radius and hole radius, in units of the short side of the image.
LONG, SHORT, CORNER, HOLE = 0.635, 0.352, 0.030, 0.126
#: Direction of the long diagonal, radians from the x axis towards the y axis.
HEADING = 0.76

INSERT = Material(
    fresh=(0.58, 0.58, 0.59),
    backing=(0.02, 0.02, 0.02),
    particle=((0.80, 0.56, 0.20), (0.70, 0.44, 0.13), (0.86, 0.72, 0.42)),
    stain=((0.62, 0.48, 0.33), (1.55, 1.50, 1.42), (0.55, 0.56, 0.60)),
)


def _rhombus(p: ndarray, q: ndarray) -> tuple[ndarray, ndarray]:
    """Return the distance to the rounded outline (positive inside) and the position along the edge.

    The position runs from 0 at the sharp corner to 1 at the blunt one.
    """
    side = float(np.hypot(LONG, SHORT))
    a = LONG - CORNER * side / SHORT
    b = SHORT - CORNER * side / LONG
    ap, aq = np.abs(p), np.abs(q)
    along = np.clip(((a - ap) * a + aq * b) / (a * a + b * b), 0.0, 1.0)
    reach = np.hypot(ap - a * (1.0 - along), aq - b * along)
    signed = np.where(b * ap + a * aq > a * b, -reach, reach)
    return signed + CORNER, along


@functools.lru_cache(maxsize=4)
def _marking(side: int) -> ndarray:
    """Return the pressed-in lettering in the part's own frame: ``(side, side)`` float32 in [0, 1]."""
    canvas = np.zeros((side, side), np.uint8)
    scale = side / 256.0 * 0.62
    thickness = max(1, round(side / 256.0 * 1.7))
    for text, u in (('M5', -0.285), ('K20', 0.285)):
        (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, scale, thickness)
        origin = (int(side * (0.5 + u) - width / 2), int(side * 0.5 + height / 2))
        cv2.putText(canvas, text, origin, cv2.FONT_HERSHEY_SIMPLEX, scale, 255, thickness, cv2.LINE_AA)
    return cv2.GaussianBlur(canvas.astype(np.float32) / 255.0, (0, 0), 0.5 * side / 256.0)


def _relief(p: ndarray, q: ndarray, depth: ndarray, along: ndarray) -> ndarray:
    """Return the pressed shape of the top face: ``(H, W)`` float32, height in units of the short side."""
    # The two flanks of a corner are pressed with different pockets, as on real inserts.
    shifted = along + 0.04 * np.sign(p * q)
    pocket = np.exp(-(((shifted - 0.30) / 0.17) ** 4)) + 0.75 * np.exp(-(((shifted - 0.78) / 0.12) ** 4))
    wall = 0.042 + 0.052 * pocket
    position = np.clip((depth - 0.020) / (wall - 0.020), 0.0, 1.0)
    height = -0.0125 * np.sin(np.pi * position**1.6) + 0.0075 * smoothstep(0.62, 1.0, position)
    height += 0.004 * (smoothstep(0.0, 0.009, depth) - 1.0) + 0.002 * smoothstep(0.012, 0.022, depth)

    radius = np.hypot(p, q)
    teeth = np.tanh(3.0 * np.sin(10.0 * np.arctan2(q, p) + 0.5))
    collar = 0.180 + 0.012 * teeth
    height += 0.0030 * (1.0 - smoothstep(-0.005, 0.005, radius - collar))
    height -= 0.010 * (1.0 - smoothstep(0.0, 0.012, radius - HOLE))
    # Two short bars on the long diagonal, towards the tips.
    bar = np.hypot(np.maximum(np.abs(np.abs(p) - 0.43) - 0.020, 0.0), q)
    return height + 0.0022 * (1.0 - smoothstep(0.003, 0.008, bar))


def _backdrop(inside: ndarray, hole: ndarray, rng: Generator) -> ndarray:
    """Return the white table with the part's soft shadow, and the grey platform seen through the hole."""
    size_hw = inside.shape
    unit = min(size_hw) / 256.0
    y, x = unit_grid(size_hw)
    small = (max(8, size_hw[1] // 4), max(8, size_hw[0] // 4))
    mask = cv2.resize((inside > 0).astype(np.float32), small, interpolation=cv2.INTER_AREA)
    mask = cv2.GaussianBlur(mask, (0, 0), 1.1 * unit)
    shift = np.float32([[1, 0, 0.7 * unit], [0, 1, 0.9 * unit]])
    shadow = cv2.warpAffine(mask, shift, small, borderMode=cv2.BORDER_REPLICATE)
    shadow = cv2.resize(shadow, size_hw[::-1], interpolation=cv2.INTER_LINEAR)
    table = 0.955 * (1.0 - 0.11 * shadow) * (1.0 - 0.05 * (x * x + y * y))
    depth = np.clip(hole / (0.03 * min(size_hw)), 0.0, 1.0)
    cloud = fractal_noise(rng, size_hw, 38 * unit, 2)
    platform = (0.33 + 0.022 * cloud + 0.10 * (x - y)) * (0.55 + 0.45 * depth)
    tone = np.where(hole > -2.0, platform, table)
    warm = np.where((hole > -2.0)[..., None], np.float32([0.97, 1.0, 0.965]), np.float32([1.0, 1.0, 0.995]))
    return (tone[..., None] * warm).astype(np.float32)


def insert_scene(rng: Generator, size_hw: tuple[int, int]) -> Scene:
    """Return one insert in its fixture, which leaves a small misplacement."""
    side = min(size_hw)
    unit = side / 256.0
    dx, dy = np.clip(rng.normal(0.0, 0.004, 2), -0.01, 0.01).tolist()
    angle = HEADING + float(np.clip(rng.normal(0.0, 0.008), -0.02, 0.02))
    scale = float(rng.uniform(0.992, 1.008))
    y, x = unit_grid(size_hw)
    cos, sin = np.float32(np.cos(angle) / scale), np.float32(np.sin(angle) / scale)
    moved_x, moved_y = x - np.float32(dx), y - np.float32(dy)
    p, q = cos * moved_x + sin * moved_y, cos * moved_y - sin * moved_x  # along the long and the short diagonal
    depth, along = _rhombus(p, q)
    hole = (HOLE - np.hypot(p, q)) * side
    inside = np.minimum(depth * side, -hole).astype(np.float32)

    height = _relief(p, q, depth, along)
    turn = cv2.getRotationMatrix2D(((side - 1) / 2, (side - 1) / 2), -np.degrees(angle), scale)
    turn[:, 2] += ((size_hw[1] - side) / 2 + dx * side, (size_hw[0] - side) / 2 + dy * side)
    marking = cv2.warpAffine(_marking(side), turn, size_hw[::-1], flags=cv2.INTER_LINEAR)
    height = side * (height - 0.0022 * marking)
    grain = white_noise(rng, size_hw)
    blotch = fractal_noise(rng, size_hw, 30 * unit, 4)
    relief = (height + 0.035 * grain + 0.10 * unit * blotch).astype(np.float32)

    coating = np.array([0.068, 0.066, 0.069], np.float32) * (1 + rng.normal(0, 0.015, 3).astype(np.float32))
    # The hone along the cutting edge is polished by the finishing brush, so the coating is thinner there.
    edge = 1.0 - smoothstep(0.5 * unit, 3.0 * unit, inside)
    tone = 1.0 + 0.05 * grain + 0.055 * blotch + 0.30 * edge
    albedo = np.clip(coating * tone[..., None], 0.005, 1.0).astype(np.float32)
    gloss = np.clip(0.055 + 0.004 * blotch + 0.03 * edge, 0.0, 1.0).astype(np.float32)

    field = rng.uniform(0.95, 1.03) * (1.0 + rng.uniform(-0.05, 0.05) * x + rng.uniform(-0.05, 0.05) * y)
    camera = Camera.sample(rng, field, (0.55, 0.7))
    reach = float(np.hypot(LONG, SHORT)) * CORNER
    sharp, blunt = LONG - reach / SHORT + CORNER, SHORT - reach / LONG + CORNER
    corners = np.array([[sharp, 0], [-sharp, 0], [0, blunt], [0, -blunt]]) * scale @ turn_matrix(angle).T * side
    corners += np.array([dx, dy]) * side + (np.array(size_hw[::-1]) - 1) / 2
    return Scene(
        surface=Surface(relief, albedo, gloss, np.clip(inside + 0.5, 0.0, 1.0).astype(np.float32)),
        backdrop=_backdrop(inside, hole, rng),
        inside=inside,
        lights=(Light((-0.50, -0.55, 0.67), 0.55, 0.9), Light((0.55, 0.20, 0.81), 0.25, 0.5)),
        ambient=0.50,
        lobe=(0.30, 0.30),
        bend=0.15,
        cavity=1.3,
        camera=camera,
        material=INSERT,
        corners=corners.astype(np.float32),
    )
