"""From a folder of photographs to a verdict on parts in two commands, and what comes after it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmdefect.experiments.acceptance import read_parts

pytestmark = pytest.mark.slow
REPO = Path(__file__).resolve().parents[2]
MODEL = 'fast-scnn_recommended'


def write_photographs(root: Path, count: int = 60, side: int = 96) -> Path:
    """Write parts of which two in three have a bright scratch, with a mask of 0 and 255 each, and one part twice."""
    rng = np.random.default_rng(3)
    for name in ('images', 'masks'):
        (root / name).mkdir(parents=True)
    for index in range(count):
        image = np.clip(rng.normal(90, 12, (side, side, 3)), 0, 255).astype(np.uint8)
        mask = np.zeros((side, side), np.uint8)
        if index % 3:
            x, y = rng.integers(20, side - 20, 2).tolist()
            dx, dy = rng.integers(6, 16, 2).tolist()
            cv2.line(mask, (x, y), (x + dx, y + dy), 255, 5)
            image[mask > 0] = 220
        cv2.imwrite(str(root / 'images' / f'Teil {index}.png'), image)
        cv2.imwrite(str(root / 'masks' / f'Teil {index}.png'), mask)
    for name in ('images', 'masks'):
        (root / name / 'Kopie.png').write_bytes((root / name / 'Teil 4.png').read_bytes())
    return root


def command(*arguments, status=0, **environment) -> str:
    done = subprocess.run(
        list(map(str, arguments)), cwd=REPO, capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == status, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_two_commands_end_in_a_verdict_on_parts(tmp_path):
    data = write_photographs(tmp_path / 'Teile [Werk 2]')  # a name that is a pattern, with a space
    configs, work_dir = tmp_path / 'configs', tmp_path / 'work [2]'
    said = command(sys.executable, 'tools/init_project.py', data, '--name', 'teile', '--out', configs)
    split = json.loads((configs / 'teile' / 'split.json').read_text())
    sides = {name: {entry['image'] for entry in entries} for name, entries in split['splits'].items()}
    assert any({'images/Kopie.png', 'images/Teil 4.png'} <= names for names in sides.values())  # the copy, on one side
    assert 'METRIC=fg_AP' in said and sum(map(len, sides.values())) == 61

    options = ['train_cfg.max_iters=160', 'train_cfg.val_interval=80', 'default_hooks.checkpoint.interval=80']
    options += ['train_dataloader.batch_size=4']
    for split_name in ('train', 'val', 'test'):
        options += [f'{split_name}_dataloader.num_workers=0', f'{split_name}_dataloader.persistent_workers=False']
    variables = dict(METRIC='fg_AP', PROJECT_NAME='p', GPU_COUNT='0', PYTHON=sys.executable, WORK_DIR=str(work_dir))
    config = configs / 'teile' / f'{MODEL}.py'
    command('bash', 'bash/run_main.sh', config, '--', *options, **variables)
    results = (work_dir / 'p' / 'results.md').read_text()
    verdict = re.search(
        rf'- teile/{MODEL}: Test: (\d+) of (\d+) bad parts found \(95 %: .*?\), (\d+) of (\d+) good parts rejected',
        results,
    )
    found, bad, rejected, good = map(int, verdict.groups())
    assert bad + good == len(sides['test']) and found >= bad / 2 and rejected <= good / 2, results

    run = work_dir / 'p' / 'exp' / 'teile' / MODEL
    parts = read_parts(run)
    assert (int(parts.bad.sum()), int(parts.rejected[parts.bad].sum())) == (bad, found)
    assert (int((~parts.bad).sum()), int(parts.rejected[~parts.bad].sum())) == (good, rejected)
    answer = command(sys.executable, 'tools/accept.py', run, '--overkill', '.5%', '--escape', '1%', status=3)
    assert 'CANNOT BE KNOWN from this many parts' in answer and (run / 'acceptance.html').is_file()
    assert 'PROMOTE' in command(sys.executable, 'tools/gate.py', run, run)
    command(sys.executable, 'tools/report.py', run)
    best = (run / 'train' / 'ckpt' / 'best_checkpoint').read_text().strip()
    predicted = command(
        sys.executable, 'tools/predict.py', run / 'train' / 'ckpt' / best, data / 'images', '--out', tmp_path / 'out'
    )
    assert '61 images predicted' in predicted and 'a part is rejected for' in predicted
    verdicts = map(json.loads, (tmp_path / 'out' / 'predictions.jsonl').read_text().splitlines())
    verdicts = {Path(record['image']).stem: record['is_defective'] for record in verdicts}
    assert [verdicts[Path(name).stem] for name in parts.names] == parts.rejected.tolist()
