"""What one finished run brings to a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mmdefect.experiments.evidence.counts import Counts


@dataclass(frozen=True)
class Evidence:
    """What one finished run brings to a comparison.

    Attributes:
        name: of the run, for messages.
        seed: its random seed; ``None`` if unknown.
        test: metrics on the test set, in percent.
        counts: counts of each test image, if there are any.
        settings: flat settings that can change a result; empty if unknown.
        budget: ``iterations``, ``batch_size``, ``val_interval``.
        tests: see ``JobState.tests``.
        leaks: test images that donors were cut from; ``None`` if unknown.
        source: ``data``, ``commit``, ``versions``, ``hardware`` of the run.
        key: identity of the training.
    """

    name: str
    seed: int | None
    test: Mapping[str, float | None]
    counts: Counts | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    budget: Mapping[str, Any] = field(default_factory=dict)
    tests: Sequence[Mapping[str, Any]] = ()
    leaks: Sequence[str] | None = None
    source: Mapping[str, Any] = field(default_factory=dict)
    key: str = ''


def from_record(record: Mapping[str, Any]) -> Evidence:
    """Return the evidence of a record of :mod:`mmdefect.experiments.study_records`."""
    counts = Counts.from_json(record['counts']) if 'counts' in record else None
    source = {key: record[key] for key in ('data', 'commit', 'modified', 'versions', 'hardware') if key in record}
    return Evidence(
        f'{record["key"]} (seed {record["seed"]})',
        record['seed'],
        record['test'],
        counts,
        {key: value[1] for key, value in record['diff'].items()},
        record['budget'],
        record['tests'],
        record.get('leaks'),
        source,
        record['key'],
    )
