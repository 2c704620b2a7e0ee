"""How large the masks of each defect type are: read from YAML; the package has what AnoGen used for MVTec AD."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from mmdefect.diffusion.extras import need

#: Sizes for MVTec AD; Gui et al., "Few-shot anomaly-driven generation", ECCV 2024.
MVTEC_RANGES = Path(__file__).with_name('anogen_mvtec.yaml')


@dataclass(frozen=True)
class BoxRange:
    """Size of a mask as fractions of the image.

    Attributes:
        width_range: low and high, in (0, 1].
        height_range: low and high, in (0, 1].
        rotate: whether it is turned by a random angle.
        name: what the range belongs to, for messages.
    """

    width_range: tuple[float, float] = (0.05, 0.1)
    height_range: tuple[float, float] = (0.05, 0.1)
    rotate: bool = False
    name: str = 'box'

    def __post_init__(self) -> None:
        if not isinstance(self.rotate, bool):
            raise ValueError(
                f'`rotate` of {self.name} must be true or false, got {self.rotate!r}; a text such as '
                '"False" counts as true in many programs, so none is taken.'
            )
        for side, value in (('width', self.width_range), ('height', self.height_range)):
            good = len(value) == 2 and all(isinstance(v, (int, float)) for v in value)
            if not good or not 0 < value[0] <= value[1] <= 1:
                raise ValueError(
                    f'`{side}` of {self.name} must satisfy 0 < low <= high <= 1, got {list(value)}; it is '
                    'a fraction of the image.'
                )

    def __str__(self) -> str:
        (w_low, w_high), (h_low, h_high) = self.width_range, self.height_range
        return (
            f'{self.name} (width {w_low:g}-{w_high:g}, height {h_low:g}-{h_high:g}, '
            f'{"turned" if self.rotate else "upright"})'
        )


def read_ranges(path: str | os.PathLike = MVTEC_RANGES) -> dict[str, dict[str, BoxRange]]:
    """Read ``{category: {defect type: BoxRange}}``.

    Raises:
        ValueError: if the file is missing or a row is not ``{width: [low, high], height: [low, high], rotate: bool}``.
    """
    yaml = need('yaml')
    try:
        body = yaml.safe_load(Path(path).read_text(encoding='utf-8'))
    except OSError as err:
        raise ValueError(f'the file of ranges {path} must be readable, but it is not ({err.strerror}).') from err
    except yaml.YAMLError as err:
        raise ValueError(f'the file of ranges {path} must be YAML, but it cannot be read ({err}).') from err
    try:
        return {
            category: {kind: _read_row(f'{category}/{kind}', row) for kind, row in kinds.items()}
            for category, kinds in body.items()
        }
    except (AttributeError, TypeError, KeyError) as err:
        raise ValueError(
            f'{path} must hold `category: {{type: {{width: [low, high], height: [low, high], rotate: '
            f'false}}}}`, but it does not ({err!r}); see {MVTEC_RANGES.name} in the package.'
        ) from err


def find_range(ranges: dict[str, dict[str, BoxRange]], category: str, kind: str) -> BoxRange:
    """Return the range of one defect type.

    Raises:
        ValueError: if there is none, listing what there is.
    """
    if category not in ranges:
        raise ValueError(
            f'`category` must have ranges, but {category!r} has none among {sorted(ranges)}; give the '
            'sizes with --width and --height, or a file with --ranges.'
        )
    if kind not in ranges[category]:
        raise ValueError(
            f'`type` must have a range, but {kind!r} has none among those of {category}, '
            f'{sorted(ranges[category])}; give the sizes with --width and --height, or --ranges.'
        )
    return ranges[category][kind]


def _read_row(name: str, row: dict) -> BoxRange:
    unknown = sorted(set(row) - {'width', 'height', 'rotate'})
    if unknown:
        raise ValueError(f'{name} must have width, height and rotate only, got {unknown}.')
    return BoxRange(tuple(row['width']), tuple(row['height']), row['rotate'], name)
