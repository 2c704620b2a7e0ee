"""Evidence from run folders, for comparisons of runs that are no part of a study."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmdefect.experiments import settings as st
from mmdefect.experiments.evidence.report import SearchPlaces
from mmdefect.experiments.evidence.run import RunEvidence, find_runs, load_run
from mmdefect.experiments.states import STATE_NAME, read_state
from mmdefect.experiments.study_records import budget, donor_leaks
from mmdefect.experiments.tested_run import Evidence

_CHECKPOINT = re.compile(r'Load checkpoint from (\S+)')


def parse_group(text: str) -> tuple[str, list[Path]]:
    """Return name and folders of ``NAME=FOLDER,FOLDER`` or ``FOLDER``.

    Raises:
        FileNotFoundError: if a folder is none.
    """
    name, equals, places = text.partition('=')
    folders = [Path(place) for place in (places if equals else text).split(',') if place]
    missing = [str(folder) for folder in folders if not folder.is_dir()]
    if missing or not folders:
        raise FileNotFoundError(
            f'an arm must look like NAME=FOLDER,FOLDER with run folders, got {text!r}'
            f'{"; there is no " + ", ".join(missing) if missing else ""}.'
        )
    return (name if equals else folders[0].name), folders


def load_groups(
    groups: Sequence[tuple[str, list[Path]]], places: SearchPlaces, read_settings: Callable[[Path], dict[str, Any]]
) -> dict[str, list[Evidence]]:
    """Return the evidence of every arm; a folder with several runs brings all of them.

    Args:
        groups: ``(name, folders)`` of each arm.
        places: where images and labels are.
        read_settings: reads a config file.
    """
    arms: dict[str, list[Evidence]] = {}
    for name, folders in groups:
        runs = [path for folder in folders for path in find_runs(folder)]
        arms.setdefault(name, []).extend(load_evidence(path, places, read_settings) for path in runs)
    return arms


def load_evidence(folder: Path, places: SearchPlaces, read_settings: Callable[[Path], dict[str, Any]]) -> Evidence:
    """Return the evidence of one run folder."""
    truths = []

    def truth_of(config: Path, classes: tuple[str, ...]):
        truths.append(places.find(config, classes))
        return truths[-1]

    run = load_run(folder, folder.name, truth_of)
    config = next(iter(sorted((folder / 'train').glob('*.py'))), None)
    settings = read_settings(config) if config is not None else {}
    seed = st.flatten(settings).get(st.SEED)
    return Evidence(
        run.name,
        seed,
        run.test,
        run.counts,
        st.with_effect(settings) if settings else {},
        budget(settings),
        tested(run),
        donor_leaks(folder, truths[0] if truths else None),
    )


def tested(run: RunEvidence) -> list[dict[str, Any]]:
    """Return what was tested: from the job's state, or else from the test log, which may hold several tests."""
    if (run.folder / STATE_NAME).is_file():
        return read_state(run.folder).tests
    for name in ('test/test_log.txt', 'test_log.txt'):
        path = run.folder / name
        if path.is_file():
            return [
                {'checkpoint': found}
                for found in _CHECKPOINT.findall(path.read_text(encoding='utf-8', errors='replace'))
            ]
    return []
