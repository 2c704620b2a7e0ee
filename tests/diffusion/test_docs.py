"""The commands of docs/diffusion.md run, in their order, on a pipeline with random weights."""

from __future__ import annotations

import runpy
import shlex

import pytest

from mmdefect.diffusion.images import read_image, read_mask
from mmdefect.diffusion.manifest import Manifest

from .test_masks import ROOT


def commands():
    block = (ROOT / 'docs' / 'diffusion.md').read_text(encoding='utf-8').split('```bash\n')[1].split('```')[0]
    return [shlex.split(line) for line in block.splitlines()]


@pytest.mark.slow
def test_the_guide_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, (python, tool, *arguments) in enumerate(commands()):
        assert python == 'python'
        if number == 0:
            monkeypatch.setattr('sys.argv', [tool, *arguments])
            with pytest.raises(SystemExit) as stop:
                runpy.run_path(str(ROOT / tool), run_name='__main__')
            assert not stop.value.code
        else:
            assert runpy.run_path(str(ROOT / tool))['main'](arguments) == 0, arguments
    made = Manifest('generated/few-shot').records()
    assert {r.defect_type for r in made} == {'attached', 'broken'}
    for record in made:
        source, photo = read_image(record.source), read_image(f'generated/few-shot/{record.image}')
        outside = ~read_mask(f'generated/few-shot/{record.mask}')
        assert (source[outside] == photo[outside]).all()
        assert not read_mask(record.source.replace('img_dir', 'ann_dir')).any(), 'only clean images are used'
    for word in ('rust', 'dent'):
        assert len(Manifest(f'generated/edits/{word}').records()) > 0
