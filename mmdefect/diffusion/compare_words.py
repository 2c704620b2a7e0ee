"""Which generated sets are worth training on? The choice of the prompt-edit system, over records of finished runs.

Its rule: drop every generated set that lowers any metric against the original data, then rank the rest. It looks at means
and knows no noise, so the result is shown beside the comparison with intervals, which says what can be told apart at all.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mmdefect.experiments.compare import Comparison
from mmdefect.experiments.comparison_text import published_sentences, render
from mmdefect.experiments.study import read_study
from mmdefect.experiments.study_records import read_records
from mmdefect.experiments.study_table import compare_study


def compare_words(study_file: Path, results: Path, metrics: tuple[str, ...] = (), reference: str | None = None) -> str:
    """Return the choice among the arms of a study, as Markdown: the rule's, and what the noise allows.

    Args:
        study_file: study whose arms are generated sets; its baseline is the original data.
        results: folder with ``records/``.
        metrics: those that must not fall, the first one ranks; the study's by default.
        reference: arm of the original data instead of the study's baseline.

    Raises:
        ValueError: if the reference or all other arms have no record.
    """
    study = read_study(study_file)
    if reference:
        study = replace(study, baseline=reference)
    comparison = compare_study(study, read_records(results / 'records'), metrics)
    if comparison is None or not comparison.differences:
        raise ValueError(
            f'the arm {study.reference!r} and at least one generated set of {study_file} must have records in '
            f'{results / "records"}; run tools/study.py on it first.'
        )
    return '\n'.join(
        [
            f'# {study.title or study.name}: which sets to keep\n',
            published_sentences(comparison),
            _agreement(comparison),
            render(comparison, {arm.name: arm.note for arm in study.arms}),
        ]
    )


def _agreement(comparison: Comparison) -> str:
    """Say how many of the rule's drops the noise can confirm."""
    dropped = confirmed = 0
    for differences in comparison.differences.values():
        lower = [d for d in differences.values() if d.interval.value < 0]
        dropped += bool(lower)
        confirmed += any(d.verdict == 'worse' for d in lower)
    return (
        f'Of the {dropped} sets with a lower mean in some metric, {confirmed} can be told from the original data '
        'beyond the noise of seeds and test images.\n'
    )
