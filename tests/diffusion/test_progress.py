"""What a long run says about itself."""

from __future__ import annotations

from mmdefect.diffusion import progress
from mmdefect.diffusion.progress import Meter, track


def test_rate_and_time_left_count_this_run_only():
    meter = Meter('sample', 100, 40)
    meter.count = 60  # 20 of them now, in 10 minutes
    assert meter.line(600, 'seed 1') == 'sample: 60/100, 2 images/min, ETA 0:20:00 seed 1'


def test_a_log_gets_a_line_now_and_then(monkeypatch, capsys):
    clock = iter([0.0, 10.0, 61.0, 70.0, 80.0, 200.0])
    monkeypatch.setattr(progress.time, 'monotonic', lambda: next(clock))
    with Meter('edit', 5) as meter:
        for _ in range(4):
            meter.advance()
    lines = capsys.readouterr().err.splitlines()
    assert lines == ['edit: 2/5, 1.97 images/min, ETA 0:01:31']
    monkeypatch.undo()
    assert list(track('abc', 'masks', 3)) == ['a', 'b', 'c']
