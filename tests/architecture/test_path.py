"""A reader follows one training image through few files, and docs/architecture.md names them."""

from __future__ import annotations

import re

import pytest

from mmdefect.demo.write import write_demo_dataset

from .layers import ROOT
from .tracing import path_of_a_pasted_image

LEAF = ROOT / 'configs' / 'fast_scnn' / 'fast-scnn_paste-poisson_demo.py'


@pytest.fixture(scope='module')
def path(tmp_path_factory):
    out = tmp_path_factory.mktemp('demo')
    write_demo_dataset(out, ('wta',), images=40)
    return path_of_a_pasted_image(LEAF, out / 'wta')


def test_a_pasted_image_passes_few_files(path):
    assert len(set(path)) <= 14 and len(path) - 1 <= 50


def test_the_docs_name_the_files_in_their_order(path):
    text = (ROOT / 'docs' / 'architecture.md').read_text(encoding='utf-8')
    section = text.split('## The path of one training image')[1].split('\n## ')[0]
    named = re.findall(r'^\d+\. `([\w/]+\.py)`', section, re.MULTILINE)
    passed = list(dict.fromkeys(path))
    assert [name for name in named if name in passed] == passed
    # where the object of an image lies is found once and kept
    assert set(named) - set(passed) <= {'synthesis/foreground.py'}
