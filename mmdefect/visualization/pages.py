"""HTML pages from the templates beside this module; a page holds everything itself and opens without a network."""

import base64
import math
import time
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined


def number(value: float | None, digits: int = 2) -> str:
    """Return a number, or a dash for none."""
    return '–' if value is None or not math.isfinite(value) else f'{value:.{digits}f}'


def data_uri(data: bytes, kind: str) -> str:
    """Return the content of an image file of a kind such as ``png`` as an address that holds it."""
    return f'data:image/{kind};base64,{base64.b64encode(data).decode()}'


_ENVIRONMENT = Environment(
    loader=FileSystemLoader(Path(__file__).with_name('templates')),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_ENVIRONMENT.policies['json.dumps_kwargs'] = {}  # keys keep their order
_ENVIRONMENT.filters['number'] = number
_ENVIRONMENT.filters['thousands'] = '{:,}'.format
_ENVIRONMENT.tests['finite'] = math.isfinite


def render_page(template: str, **values: object) -> str:
    """Return a page, ``<template>.html.j2`` with its values in place; texts are escaped."""
    made = time.strftime('%Y-%m-%d %H:%M')
    return _ENVIRONMENT.get_template(f'{template}.html.j2').render(made=made, **values)
