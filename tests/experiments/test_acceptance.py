"""Limits and needed parts against scipy and brute force, costs and gates against counting by hand, and the tools."""

from __future__ import annotations

import csv
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mmdefect.experiments.acceptance import Costs, accept, check_limit, cost_curve, gate, read_parts, read_share
from mmdefect.experiments.acceptance import write_acceptance as write_page

REPO = Path(__file__).resolve().parents[2]
CLASSES = ('normal', 'crack', 'dent')


def write_parts(folder, rows, root='/data/test'):
    """Write ``parts.csv`` of ``(name, rejected, score, {class: (hit, predicted, labelled)})``."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = ['image', 'defective', 'rejected', 'score']
    columns += [f'{kind}.{c}' for c in CLASSES for kind in ('hit', 'predicted', 'labelled')]
    with (folder / 'parts.csv').open('w', newline='') as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for name, rejected, score, pixels in rows:
            row = dict(image=f'{root}/{name}.png', rejected=rejected, score=score)
            row['defective'] = any(pixels.get(c, (0, 0, 0))[2] for c in CLASSES[1:])
            for c in CLASSES:
                values = pixels.get(c, (900, 900, 900) if c == 'normal' else (0, 0, 0))
                row |= {f'{kind}.{c}': v for kind, v in zip(('hit', 'predicted', 'labelled'), values, strict=True)}
            writer.writerow(row)
    return folder


def plant(folder, good=71, killed=2, bad=10, missed=0):
    """As many parts as in the example of the documentation; the scores rise with the verdict."""
    rows = [(f'good/{k:03}', k < killed, 1.0 + k if k < killed else -5.0 - k, {}) for k in range(good)]
    crack = dict(crack=(50, 60, 80))
    rows += [(f'bad/{k:03}', k >= missed, 2.0 + k if k >= missed else -4.0, crack) for k in range(bad)]
    return write_parts(folder, rows)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 400), st.floats(0, 1), st.floats(0.002, 0.6))
def test_limits_are_held_against_the_interval_of_scipy_and_brute_force_counts_the_missing(total, share, limit):
    count = int(share * total) if total else 0
    found = check_limit('overkill', limit, count, total)
    if total:
        low, high = stats.binomtest(count, total).proportion_ci(0.95, 'exact')
        assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)
    else:
        assert (found.low, found.high) == (0, 1)
    assert found.answer == ('pass' if found.high <= limit else 'fail' if found.low > limit else 'cannot be known')
    if found.answer != 'cannot be known':
        assert found.needed is None and found.likely is None
        return
    needed = max(0, 1 - total + count)
    while stats.beta.ppf(0.975, count + 1, total + needed - count) > limit:
        needed += 1 if needed < 400 else 7
    assert 0 <= needed - found.needed < (1 if needed <= 400 else 7)
    if found.likely is not None:
        more = found.likely
        assert 0 < count / total < limit
        assert stats.beta.ppf(0.975, count + math.ceil(count / total * more) + 1, total + more) <= limit * 1.2


def test_nothing_wrong_in_so_many_parts_by_the_formula_of_one_sided_zero():
    """With no mistake the upper end is 1 - .025 ** (1 / n): for 1 % that takes 368 parts, for .5 % 736."""
    assert check_limit('escape', 0.01, 0, 368).answer == 'pass' and check_limit('escape', 0.01, 0, 367).needed == 1
    assert math.ceil(math.log(0.025) / math.log(1 - 0.005)) == 736 == check_limit('overkill', 0.005, 0, 0).needed
    assert check_limit('overkill', 0.005, 5, 100).answer == 'fail'
    with pytest.raises(ValueError, match=r'the limit of escape must be a share between 0 and 1, got 5.0; write .5%'):
        check_limit('escape', 5.0, 0, 10)


def test_a_run_is_held_against_both_limits(tmp_path):
    run = plant(tmp_path / 'run' / 'test').parent  # of a batch
    answer = accept(run, 0.005, 0.01)
    assert [(x.count, x.total, x.answer) for x in answer.limits] == [
        (2, 71, 'cannot be known'),
        (0, 10, 'cannot be known'),
    ]
    assert answer.answer == 'cannot be known' and answer.limits[1].needed == 358
    assert 'CANNOT BE KNOWN from this many parts' in answer.sentence() and '358 more bad parts' in answer.sentence()
    assert [(x.name, x.total) for x in answer.classes] == [('crack', 10), ('dent', 0)]
    assert accept(run, 0.2, 0.5).answer == 'pass' and 'PASS. Good parts: 2 of 71' in accept(run, 0.2, 0.5).sentence()
    assert accept(plant(tmp_path / 'worse', killed=19), 0.1, 0.01).answer == 'fail'


def test_costs_are_those_of_the_shares_and_the_curve_counts_parts_above_each_score(tmp_path):
    parts = read_parts(plant(tmp_path, missed=2))
    costs = Costs(escape=50, overkill=2, bad_share=0.1)
    answer = accept(tmp_path, 0.1, 0.3, costs)
    assert answer.cost.value == pytest.approx(1000 * (0.1 * 50 * 2 / 10 + 0.9 * 2 * 2 / 71))
    assert answer.cost.low < answer.cost.value < answer.cost.high
    for threshold, cost in cost_curve(parts, costs):
        rejected = parts.scores >= threshold
        escaped, killed = (~rejected)[parts.bad].mean(), rejected[~parts.bad].mean()
        assert cost == pytest.approx(1000 * (0.1 * 50 * escaped + 0.9 * 2 * killed))
    assert min(cost for _, cost in cost_curve(parts, costs)) <= answer.cost.value
    assert cost_curve(parts, costs)[-1][1] == pytest.approx(1000 * 0.1 * 50)  # nothing is rejected
    with pytest.raises(ValueError, match='costs need good and bad parts, but .* has 71 and 0'):
        accept(plant(tmp_path / 'good', bad=0), 0.1, 0.1, costs)


def test_the_page_has_the_answer_the_counts_and_room_to_sign(tmp_path):
    plant(tmp_path / 'blades' / 'test')
    write_page(
        accept(tmp_path / 'blades', 0.005, 0.01, Costs(50, 1, 0.02)), tmp_path / 'page.html', ['quality', 'plant']
    )
    page = (tmp_path / 'page.html').read_text()
    for text in (
        '<h1>Acceptance: blades</h1>',
        'CANNOT BE KNOWN',
        '<td>2 of 71</td>',
        '<b>quality</b>',
        '<b>plant</b>',
        'signature',
        '<svg',
        '358',
    ):
        assert text in page
    assert read_parts(tmp_path / 'blades').digest in page and 'http' not in page.split('<svg')[0]


def test_shares_are_read_with_and_without_percent():
    assert [read_share(text) for text in ('.5%', '0.005', ' 1 %')] == pytest.approx([0.005, 0.005, 0.01])
    with pytest.raises(ValueError, match=r"must be written as .5% or .005, got 'few'"):
        read_share('few')


def two_runs(tmp_path, lost, iou_drop=0.0, parts=60):
    """The new model loses so many of the bad parts, and a share of the pixels of each."""
    rng = np.random.default_rng(0)
    rows = {'old': [(f'good/{k}', False, -5.0, {}) for k in range(parts)], 'new': []}
    rows['new'] = list(rows['old'])
    for k in range(parts):
        hit = int(rng.integers(60, 90))
        kept = int(hit * (1 - iou_drop)) + int(rng.integers(-3, 4))
        rows['old'].append((f'bad/{k}', True, 3.0, dict(crack=(hit, 100, 100))))
        rows['new'].append((f'bad/{k}', k >= lost, 3.0, dict(crack=(kept, 100, 100))))
    write_parts(tmp_path / 'old', rows['old'], '/one/place')
    write_parts(tmp_path / 'new', rows['new'], '/another')
    return gate(tmp_path / 'old', tmp_path / 'new')


def test_a_gate_lets_noise_through_and_stops_what_is_worse(tmp_path):
    same = two_runs(tmp_path / 'a', lost=1)
    assert same.promoted and 'PROMOTE: nothing is worse outside the noise of 120 parts.' in same.report()
    assert same.unknown == ('dent parts found', 'IoU of dent') and 'say nothing of dent' in same.report()
    lost = two_runs(tmp_path / 'b', lost=12)
    found = next(change for change in lost.changes if change.name == 'crack parts found')
    assert found.worse and (found.old, found.new) == (100, 80) and not lost.promoted
    assert found.p == pytest.approx(2 * 0.5**12)  # twelve of twelve that only one got right (McNemar)
    assert found.adjusted == pytest.approx(3 * found.p)  # Holm over three quantities, it is the surest
    blurred = two_runs(tmp_path / 'c', lost=0, iou_drop=0.2)
    assert [change.name for change in blurred.changes if change.worse] == ['IoU of crack']
    assert 'KEEP THE OLD ONE: worse in IoU of crack.' in blurred.report()
    better = gate(tmp_path / 'c' / 'new', tmp_path / 'c' / 'old')
    assert better.promoted and 'better' in better.report()


def test_the_interval_of_a_gate_is_that_of_a_jackknife_over_images(tmp_path):
    change = next(c for c in two_runs(tmp_path, 0, 0.1).changes if c.name == 'IoU of crack')
    first, second = (read_parts(tmp_path / name).counts.values[:, 1].astype(float) for name in ('old', 'new'))

    def iou(rows):
        hit, predicted, labelled = rows.sum(0)
        return 100 * hit / (predicted + labelled - hit)

    count = len(first)
    whole = iou(second) - iou(first)
    without = [iou(np.delete(second, k, 0)) - iou(np.delete(first, k, 0)) for k in range(count)]
    pseudo = count * whole - (count - 1) * np.array(without)
    error = pseudo.std(ddof=1) / math.sqrt(count)
    assert change.new - change.old == pytest.approx(whole)
    assert (change.high - change.low) / 2 == pytest.approx(error * 2, rel=0.1)  # some 2 standard errors each way


def test_runs_of_other_parts_or_classes_are_not_compared(tmp_path):
    plant(tmp_path / 'a'), plant(tmp_path / 'b', good=70), plant(tmp_path / 'c')
    with pytest.raises(ValueError, match=r'tested on the same parts, but .* differ \(81 and 80\)'):
        gate(tmp_path / 'a', tmp_path / 'b')
    table = (tmp_path / 'c' / 'parts.csv').read_text()
    (tmp_path / 'c' / 'parts.csv').write_text(table.replace('crack', 'scratch'))
    with pytest.raises(ValueError, match=r"tested on the same classes, .*'crack'.*'scratch'"):
        gate(tmp_path / 'a', tmp_path / 'c')
    (tmp_path / 'c' / 'parts.csv').write_text(table.replace('50,60,80', '50,60,81'))
    with pytest.raises(ValueError, match='the same labelled pixels'):
        gate(tmp_path / 'a', tmp_path / 'c')
    with pytest.raises(
        FileNotFoundError, match=r'with parts.csv in it .* test the checkpoint once more: tools/test.py'
    ):
        read_parts(tmp_path)
    (tmp_path / 'parts.csv').write_text('image,defective\nx,True\n')
    with pytest.raises(ValueError, match='must hold parts with `image`, `defective`, `rejected`'):
        read_parts(tmp_path)


@pytest.mark.parametrize(
    ('limits', 'code', 'words'),
    [(('20%', '50%'), 0, 'PASS'), (('1%', '.5%'), 3, 'CANNOT BE KNOWN'), (('few', '1%'), 2, 'error: a share must be')],
)
def test_the_exit_code_of_the_tool_is_the_answer(tmp_path, limits, code, words):
    plant(tmp_path)
    command = [sys.executable, 'tools/accept.py', str(tmp_path), '--overkill', limits[0], '--escape', limits[1]]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == code and words in done.stdout + done.stderr
    assert (tmp_path / 'acceptance.html').is_file() == (code != 2)


def test_the_exit_code_of_the_gate_is_for_ci(tmp_path):
    two_runs(tmp_path, lost=12)
    for places, code in ((('old', 'new'), 1), (('new', 'old'), 0), (('old', 'nowhere'), 2)):
        command = [sys.executable, 'tools/gate.py', *(str(tmp_path / place) for place in places)]
        assert subprocess.run(command, cwd=REPO, capture_output=True).returncode == code
