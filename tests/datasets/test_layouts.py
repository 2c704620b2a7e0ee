from __future__ import annotations

import pytest

from mmdefect.datasets.layouts import LAYOUTS, build_layout
from tests.helpers.data import write_combined, write_mvtec, write_wta


@pytest.mark.parametrize('layout, write', [('mvtec', write_mvtec), ('wta', write_wta), ('combined', write_combined)])
def test_by_short_name_and_class_name(tmp_path, layout, write):
    truth = write(tmp_path)
    for name in (layout, LAYOUTS[layout]):
        assert len(build_layout(name, str(tmp_path)).scan()) == len(truth)


def test_unknown_name(tmp_path):
    with pytest.raises(ValueError, match="got 'mvtek'; did you mean 'mvtec'"):
        build_layout('mvtek', str(tmp_path))
    with pytest.raises(ValueError, match='derives from DefectDataset'):
        build_layout('BaseSegDataset', str(tmp_path))
