"""The report page: what is on it, that it fetches nothing, and that a real browser runs it."""

from __future__ import annotations

import html
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from mmdefect.experiments.evidence import figures, gallery
from mmdefect.experiments.evidence.counts import Counts
from mmdefect.experiments.evidence.report import run_names, write_report
from mmdefect.experiments.evidence.run_folder import SearchPlaces, find_runs
from tests.experiments import study_helpers as helpers
from tests.helpers.realdata import real_data

CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
VOID = {'meta', 'img', 'br', 'link', 'input', 'hr', 'path', 'use'}


def write_run(root, data, quality, seed=0, curves=False):
    """A run folder such as the published ones: predictions, test log, scalars."""
    rng = np.random.default_rng(seed)
    (root / 'pred').mkdir(parents=True)
    confusion = np.zeros((3, 3), int)
    for sample in helpers.truth(data).samples:
        label = sample.load_label()
        prediction = np.where(rng.random(label.shape) < quality, label, 0).astype(np.uint8)
        prediction[rng.random(label.shape) < 0.01] = 1
        cv2.imwrite(str(root / 'pred' / f'{sample.name}.png'), prediction)
        np.add.at(confusion, (label, prediction), 1)
    hit = np.diag(confusion)
    iou, acc = 100 * hit / (confusion.sum(0) + confusion.sum(1) - hit), 100 * hit / confusion.sum(1)
    rows = '\n'.join(f'| {n} | {i:.2f} | {a:.2f} |' for n, i, a in zip(helpers.CLASSES, iou, acc, strict=True))
    (root / 'test_log.txt').write_text(
        f'+--+\n| Class | IoU | Acc |\n+--+\n{rows}\n+--+\n INFO - Iter(test) [6/6]    '
        f'aAcc: 99.0000  mIoU: {iou.mean():.4f}  mAcc: {acc.mean():.4f}\n'.replace(
            'aAcc: 99.0000', f'aAcc: {100 * hit.sum() / confusion.sum():.4f}'
        )
    )
    lines = [{'lr': 0.1 / step, 'loss': 1 / step, 'iter': step, 'step': step} for step in range(1, 30)]
    lines += [{'mIoU': 30.0 + step, 'fg_mIoU': step, 'time': 0.1, 'step': step} for step in (10, 20)]
    (root / 'scalars.json').write_text('\n'.join(map(json.dumps, lines)))
    if curves:
        points = [k / 10 for k in range(11)]
        content = {'classes': {'broken': {'recall': points, 'precision': points[::-1], 'fpr': points, 'pro': points}}}
        (root / 'test').mkdir()
        (root / 'test' / 'curves.json').write_text(json.dumps(content))


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp('report')
    helpers.write_data(root / 'data', side=48)
    write_run(root / 'runs' / 'good<run>', root / 'data', 0.9, curves=True)
    write_run(root / 'runs' / 'weak', root / 'data', 0.3, seed=1)
    return root


@pytest.fixture(scope='module')
def page(runs):
    path, *others = write_report(
        runs / 'runs', runs / 'out' / 'report.html', SearchPlaces(runs / 'data'), markdown=True
    )
    assert all(other.is_file() for other in others)
    return path


class Checker(HTMLParser):
    """Collects opened tags, ids and addresses, and sees that tags are closed in order."""

    def __init__(self):
        super().__init__()
        self.stack, self.ids, self.links, self.sources = [], [], [], []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in VOID:
            self.stack.append(tag)
        if 'id' in attrs:
            self.ids.append(attrs['id'])
        if tag == 'a':
            self.links.append(attrs['href'])
        self.sources += [attrs[key] for key in ('src', 'srcset', 'data') if key in attrs]

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag, f'</{tag}> closes nothing'


def test_the_page_is_well_formed_and_fetches_nothing(page):
    text = page.read_text()
    checker = Checker()
    checker.feed(text)
    assert not checker.stack
    assert all(link.startswith('#') and link[1:] in checker.ids for link in checker.links)
    assert checker.sources and all(source.startswith('data:image/webp;base64,') for source in checker.sources)
    outside = set(re.findall(r'(?:href|src|url\()=?["\'(]?\s*(?:https?:)?//[^"\')\s]+', text))
    assert not {address for address in outside if 'w3.org' not in address}
    assert '@import' not in text and '<link' not in text


def test_all_parts_are_on_the_page(page):
    text = page.read_text()
    for part in (
        'Results',
        'Classes',
        'Learning curves',
        'PR and PRO curves',
        'Confusion',
        'Gallery',
        'All images',
        'Config and environment',
    ):
        assert f'<h2>{part}</h2>' in text
    assert 'good&lt;run&gt;' in text and 'good<run>' not in text.replace('<title>', '')
    assert 'Precision-recall, broken' in text and 'Validation fg mIoU' in text and 'part.4' in text
    assert 'do not give the logged metrics' not in text


def test_markdown_has_the_same_numbers(page):
    markdown = page.with_suffix('.md').read_text()
    value = re.search(r'\| weak\s*\|\s*([\d.]+) \[', markdown)[1]
    assert f'>{value}<' in page.read_text()
    assert '![classes_iou](figures/classes_iou.png)' in markdown
    svg = (page.parent / 'figures' / 'classes_iou.svg').read_text()
    assert '<svg' in svg and 'var(--' not in svg  # a file of its own has no page to take colours from


def test_absent_parts_are_said_and_not_made_up(runs, tmp_path):
    shutil.copytree(runs / 'runs' / 'weak', tmp_path / 'weak')
    for name in ('pred',):
        shutil.rmtree(tmp_path / 'weak' / name)
    (tmp_path / 'weak' / 'scalars.json').unlink()
    text = write_report(tmp_path / 'weak', tmp_path / 'r.html', SearchPlaces())[0].read_text()
    for words in ('no predictions: test with --out', 'no scalar log', 'No score histograms', 'nothing to show'):
        assert words in text
    assert 'Confusion' not in text


def test_the_verdict_on_parts_opens_the_report(runs, tmp_path):
    shutil.copytree(runs / 'runs' / 'weak', tmp_path / 'weak')
    log = next((tmp_path / 'weak').rglob('test_log.txt'))
    said = 'Test: 3 of 3 bad parts found (95 %: 29 to 100 %), no good parts.'
    log.write_text(f'{log.read_text()}01/02 03:04:05 - mmengine - INFO - {said}\n')
    text = write_report(tmp_path / 'weak', tmp_path / 'r.html', SearchPlaces())[0].read_text()
    assert said in text


def test_predictions_of_another_test_are_pointed_out(runs, tmp_path):
    shutil.copytree(runs / 'runs' / 'weak', tmp_path / 'weak')
    other = next((tmp_path / 'weak' / 'pred').glob('part.5.png'))
    cv2.imwrite(str(other), np.ones((48, 48), np.uint8))
    text = write_report(tmp_path / 'weak', tmp_path / 'r.html', SearchPlaces(runs / 'data'))[0].read_text()
    assert 'do not give the logged metrics' in text


def test_a_folder_without_runs_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match='must hold runs'):
        find_runs(tmp_path)


def test_runs_are_named_by_title_or_by_what_tells_them_apart(tmp_path):
    found = [tmp_path / 'exp' / 'net' / key for key in ('a1', 'b2')]
    for path in found:
        path.mkdir(parents=True)
    assert run_names(found, tmp_path) == ['a1', 'b2'] and run_names(found[:1], found[0]) == ['a1']
    for path in found:
        (path / 'title.txt').write_text('focal seed 0\n')
    assert run_names(found[:1], found[0]) == ['focal seed 0']
    assert run_names(found, tmp_path) == ['exp/net/a1', 'exp/net/b2']  # two of one title would be one run on the page


def test_the_gallery_takes_the_worst_and_the_best():
    values = np.zeros((4, 2, 3), np.int64)
    values[:, 1] = [(0, 0, 50), (10, 60, 10), (30, 30, 30), (0, 0, 0)]
    rows = gallery.image_rows(Counts(tuple('abcd'), ('normal', 'dent'), values))
    assert gallery.choose(rows, 1) == {'a': ('misses',), 'b': ('false alarms',), 'c': ('best',)}
    assert [row.missed for row in rows] == [50, 0, 0, 0] and math.isnan(rows[3].iou)


def test_the_window_shows_the_largest_error_inside_the_image():
    label, prediction = np.zeros((200, 300), np.uint8), np.zeros((200, 300), np.uint8)
    label[10:12, 10:12] = 1
    prediction[190:199, 280:299] = 1
    top, left, side = gallery.window(label, prediction)
    assert top <= 190 and left <= 280 and top + side >= 199 and left + side >= 299
    assert top >= 0 and top + side <= 200 and left + side <= 300
    assert gallery.window(label, label)[:2] == (0, 0)  # no error: the defect itself


def test_error_colours():
    image = np.full((1, 4, 3), 100, np.uint8)
    out = gallery.draw_error(image, np.array([[1, 1, 0, 1]]), np.array([[1, 0, 1, 2]]))
    assert [tuple(pixel) for pixel in out[0]] == [gallery.HIT, gallery.MISS, gallery.FALSE, gallery.CONFUSED]


PROBE = """<script>
const click=s=>document.querySelector(s).click();
click('#results th:nth-child(2)');click('#results th:nth-child(2)');
click('button[data-kind="best"]');click('#theme');
const cards=[...document.querySelectorAll('#gallery .card')];
const rows=[...document.querySelectorAll('#results tbody tr')];
document.body.dataset.probe=JSON.stringify({order:rows.map(r=>r.cells[0].textContent),
 shown:cards.filter(c=>!c.hidden).every(c=>c.closest('details')!==document.querySelector('#gallery details')||
 c.dataset.kinds.includes('best')),hidden:cards.filter(c=>c.hidden).length,theme:document.documentElement.dataset.theme,
 broken:[...document.images].filter(i=>i.complete&&!i.naturalWidth).length,
 wide:document.documentElement.scrollWidth-innerWidth});
</script></body>"""


def in_chromium(page, tmp_path, width=390):
    """Run the page with the probe in a real browser and return what the probe found."""
    if CHROMIUM is None:
        pytest.skip('no chromium here: install it to check the page in a browser')
    probe = tmp_path / 'probe.html'
    probe.write_text(page.read_text().replace('</body>', PROBE))
    done = subprocess.run(
        [
            CHROMIUM,
            '--headless',
            '--no-sandbox',
            '--disable-gpu',
            f'--user-data-dir={tmp_path / "profile"}',
            f'--window-size={width},844',
            '--virtual-time-budget=4000',
            '--dump-dom',
            probe.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = re.search(r'data-probe="([^"]*)"', done.stdout)
    assert found, done.stderr[-2000:]
    return json.loads(html.unescape(found[1]))


def test_a_real_browser_sorts_filters_and_fits_a_phone(page, tmp_path):
    found = in_chromium(page, tmp_path)
    assert found['order'] == ['weak', 'good<run>']  # second click: ascending by fg mIoU
    assert found['shown'] and found['hidden'] > 0 and found['broken'] == 0
    assert found['theme'] in ('dark', 'light') and found['wide'] <= 0


def test_the_six_published_runs_render(tmp_path):
    golden, root = real_data('wta512_golden'), real_data('wta512')
    page = write_report(golden, tmp_path / 'golden.html', SearchPlaces(root), gallery=2)[0]
    text = page.read_text()
    for value in ('35.69', '33.57', '26.89', '31.86', '43.96', '27.42'):
        assert f'>{value}<' in text
    assert 'do not give the logged metrics' not in text and text.count('<details class="run"') == 18


def test_the_axis_of_shares_has_ticks_that_differ():
    points = [(0.05 * k, 0.1 * k) for k in range(7)]
    shares = figures.line_figure({'run': points}, 'Per-region overlap', 'fpr', 'pro')
    updates = figures.line_figure({'run': [(1000 * x, y) for x, y in points]}, 'Loss', 'iteration')
    texts = []
    for figure in (shares, updates):
        figure.canvas.draw()
        low, high = figure.axes[0].get_xlim()
        ticks = zip(figure.axes[0].get_xticks(), figure.axes[0].get_xticklabels(), strict=True)
        texts.append([label.get_text() for place, label in ticks if low <= place <= high])
        assert len(set(texts[-1])) == len(texts[-1]) >= 3
    assert '0.10' in texts[0] and '0' in texts[1] and all('.' not in text for text in texts[1])


def test_what_the_tools_leave_is_a_run(tmp_path):
    """The log of a test in its timestamp folder beside that of the training, as train.py and test.py write them."""
    write_run(tmp_path / 'batch', helpers.write_data(tmp_path / 'data', side=48) or tmp_path / 'data', 0.9)
    run = tmp_path / 'run'
    (run / '20261201_1000' / 'vis_data').mkdir(parents=True)
    shutil.copy(tmp_path / 'batch' / 'scalars.json', run / '20261201_1000' / 'vis_data' / 'scalars.json')
    (run / '20261201_1000' / '20261201_1000.log').write_text('mmengine - INFO - Iter(train) [10/20]  lr: 1e-3\n')
    assert find_runs(run) == [run] and find_runs(tmp_path) == sorted([tmp_path / 'batch', run])  # trained only
    (run / '20261201_1100').mkdir()
    shutil.copy(tmp_path / 'batch' / 'test_log.txt', run / '20261201_1100' / '20261201_1100.log')
    (path,) = write_report(run, tmp_path / 'page.html', SearchPlaces(tmp_path / 'data'))
    text = path.read_text()
    values = re.findall(r'mIoU: ([\d.]+)', (tmp_path / 'batch' / 'test_log.txt').read_text())
    assert f'{float(values[0]):.2f}' in text and 'Training loss' in text
