"""The line that says how far a run is."""

from __future__ import annotations

import io

from mmdefect.progress import Progress, track


def test_the_line_counts_what_this_run_did():
    progress = Progress(100, 'sampling', done=40, stream=io.StringIO())
    progress.done = 50
    assert progress.line(600.0) == 'sampling: 50/100 images (50 %), 1 images/min, ETA 0:50:00'
    assert progress.line(5.0, 'slow') == 'sampling: 50/100 images (50 %), 2.0 images/s, ETA 0:00:25, slow'
    assert Progress(3, unit='jobs', stream=io.StringIO()).line(0) == '0/3 jobs (0 %), 0 jobs/min, ETA ?'


def test_a_log_gets_few_lines_and_always_the_last():
    stream = io.StringIO()
    with Progress(1000, stream=stream) as progress:
        for _ in range(1000):
            progress.advance()
    assert stream.getvalue().count('\n') == 1 and stream.getvalue().startswith('1000/1000 images (100 %)')


def test_a_terminal_gets_one_line_that_is_renewed():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    with Progress(2, stream=stream) as progress:
        progress.every = 0
        progress.advance()
        progress.advance()
    assert (
        stream.getvalue().count('\r') == 2 and stream.getvalue().endswith('\n') and stream.getvalue().count('\n') == 1
    )


def test_track_yields_everything(capsys):
    assert list(track(iter('abc'), 'reading', 3)) == ['a', 'b', 'c']
    assert 'reading: 3/3 images' in capsys.readouterr().err
