"""The checkpoints of one training: where to resume, what to set aside, what to move to ``ckpt/``.

A killed training leaves a pointer ``last_checkpoint`` (with a path that a moved folder makes wrong), perhaps half a
file, and perhaps a checkpoint whose validation never ran; mmengine would not run it after resuming.
"""

from __future__ import annotations

import ast
import os
import re
import zipfile
from pathlib import Path

from mmdefect.experiments.records import write_text

POINTER = 'last_checkpoint'
_STEP = re.compile(r'iter_(\d+)\.pth$')


def step_of(path: Path) -> int | None:
    """Return the iteration in a checkpoint's name: ``iter_400.pth``, ``best_mIoU_iter_400.pth``."""
    match = _STEP.search(path.name)
    return int(match[1]) if match else None


def regular(folder: Path) -> dict[int, Path]:
    """Return ``{iteration: file}`` of the resumable checkpoints (``iter_*.pth``) in a folder, in order."""
    found = {step_of(path): path for path in folder.glob('iter_*.pth')}
    return {step: found[step] for step in sorted(s for s in found if s is not None)}


def saved(folder: Path) -> dict[int, Path]:
    """Return ``{iteration: file}`` of all checkpoints in a folder; ``iter_N.pth`` goes before ``best_*_iter_N.pth``."""
    best = {step_of(path): path for path in sorted(folder.glob('best_*.pth'))}
    return {**{step: path for step, path in best.items() if step is not None}, **regular(folder)}


def is_complete(path: Path) -> bool:
    """Tell whether a checkpoint was written to its end: torch files are zip archives, whose directory comes last."""
    return path.is_file() and zipfile.is_zipfile(path)


def prepare_resume(train_dir: Path, validated: set[int]) -> int | None:
    """Make ``last_checkpoint`` point to the newest checkpoint from which training can go on without a gap.

    Passed over are half-written files, files newer than the pointer (written, but not registered), and checkpoints
    of an iteration whose validation is due but missing. What is newer than the chosen one goes to ``discarded/``.

    Args:
        train_dir: work dir of the training.
        validated: iterations with a validation in the logs.

    Returns:
        The iteration to resume from; ``None`` to start afresh.
    """
    pointer = train_dir / POINTER
    newest = step_of(Path(pointer.read_text().strip())) if pointer.is_file() else None
    due = _validation_due(train_dir)
    usable = [
        step
        for step, path in regular(train_dir).items()
        if is_complete(path) and (newest is None or step <= newest) and (not due(step) or step in validated)
    ]
    start = max(usable, default=None)
    for path in train_dir.glob('*.pth'):
        step = step_of(path)
        if step is not None and step > (start or 0):
            (train_dir / 'discarded').mkdir(exist_ok=True)
            os.replace(path, train_dir / 'discarded' / path.name)
    if start is None:
        pointer.unlink(missing_ok=True)
    else:
        write_text(pointer, str(regular(train_dir)[start]))
    return start


def collect(train_dir: Path) -> Path:
    """Move all checkpoints of a finished training to ``ckpt/``; may be repeated after an interruption.

    ``last_checkpoint`` is kept in both folders and points to the moved file, so that ``--resume`` in the work dir
    still works.
    """
    target = train_dir / 'ckpt'
    target.mkdir(exist_ok=True)
    for path in sorted([*train_dir.glob('iter_*.pth'), *train_dir.glob('best_*.pth')]):
        os.replace(path, target / path.name)
    pointer = train_dir / POINTER
    if pointer.is_file():
        moved = target / Path(pointer.read_text().strip()).name
        if moved.is_file():
            write_text(pointer, str(moved))
            write_text(target / POINTER, str(moved))
    return target


def _validation_due(train_dir: Path):
    """Return a function that tells whether a validation follows an iteration, by the config dumped in the work dir."""
    loop = _train_cfg(train_dir)
    interval, begin, end = (
        loop.get(key, default) for key, default in (('val_interval', 0), ('val_begin', 1), ('max_iters', 0))
    )
    if not (interval and end):
        return lambda step: False
    return lambda step: step >= begin and (step % interval == 0 or step == end)


def _train_cfg(train_dir: Path) -> dict[str, int]:
    """Read the integers of ``train_cfg = dict(...)`` from the config dump; empty without a readable dump."""
    for path in sorted(train_dir.glob('*.py')):
        for node in ast.parse(path.read_text(encoding='utf-8')).body:
            if (
                isinstance(node, ast.Assign)
                and isinstance(node.targets[0], ast.Name)
                and node.targets[0].id == 'train_cfg'
                and isinstance(node.value, ast.Call)
            ):
                return {
                    word.arg: word.value.value
                    for word in node.value.keywords
                    if isinstance(word.value, ast.Constant) and isinstance(word.value.value, int)
                }
    return {}
