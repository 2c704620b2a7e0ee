"""The page in headless Chromium: drop, look, move the slider; without any other host."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from mmdefect.deployment.decision import decide_labels
from mmdefect.extras import MODULES
from tests.deployment.server.stand_in import INFO, class_probabilities, predict
from tests.deployment.server.stand_in_server import start_stand_in
from tests.deployment.server.upload_cases import encode, scene, turned
from tests.helpers.browser import Browser, find_chromium

for package in MODULES['serve']:
    pytest.importorskip(package)
CHROMIUM = find_chromium()
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason='no Chromium on the path; CHROMIUM may name it')

IMAGE = scene(2)
IMAGE[5:9, 5:9] = 140  # grey: a dent for low thresholds only
ROWS = 'document.querySelectorAll("tbody tr").length'
#: A label map drawn, and the table of it.
SETTLED = 'answer !== null && !$("table").classList.contains("stale")'


@pytest.fixture(scope='module')
def server():
    with start_stand_in() as running:
        yield running


@pytest.fixture(scope='module')
def browser(server, tmp_path_factory):
    with Browser(CHROMIUM, tmp_path_factory.mktemp('profile')) as page:
        yield page


@pytest.fixture
def page(browser, server):
    """The page, freshly opened; nothing may have gone wrong in it at the end."""
    browser.events.clear()
    browser.open(server.url + '/')
    browser.wait('model !== null')
    yield browser
    assert browser.problems() == [] and browser.hosts() <= {f'127.0.0.1:{server.port}'}


def drop(page, image=IMAGE, name='part.png'):
    page.drop(name, encode(Image.fromarray(image), 'PNG'), 'image/png')
    page.wait(SETTLED)


def drawn(page) -> np.ndarray:
    values = page.run('[...pen.getImageData(0, 0, view.width, view.height).data]')
    return np.asarray(values).reshape(*IMAGE.shape[:2], 4)


def marked(page) -> int:
    return page.run('labels.reduce((sum, value) => sum + (value > 0), 0)')


def test_a_dropped_image_is_shown_with_its_defects(page):
    assert page.run('$("decision").textContent') == 'No image yet'
    drop(page)
    expected = predict(IMAGE, INFO.thresholds)
    assert page.run('$("decision").textContent') == '2 defects' and page.run('$("decision").className') == 'bad'
    cells = page.run('[...document.querySelectorAll("tbody tr")].map(row => [...row.cells].map(c => c.textContent))')
    assert [row[0] for row in cells] == [d.class_name for d in expected.defects]
    assert [row[2] for row in cells] == [str(d.area_px) for d in expected.defects]
    assert [row[4] for row in cells] == ['{}, {}'.format(*d.box_xyxy[:2]) for d in expected.defects]
    assert np.array_equal(np.asarray(page.run('[...labels]')).reshape(IMAGE.shape[:2]), expected.label_map)


def test_the_overlay_colours_defects_and_nothing_else(page):
    drop(page)
    page.run('answer.defects = []; $("opacity").value = 1; draw()')  # without boxes
    seen = drawn(page)
    labels = predict(IMAGE, INFO.thresholds).label_map
    assert np.array_equal(seen[labels > 0][:, :3], np.asarray(INFO.palette)[labels[labels > 0]])
    page.run('$("opacity").value = 0; draw()')
    plain = drawn(page)
    assert np.array_equal(seen[labels == 0], plain[labels == 0])
    assert np.abs(plain[..., :3] - IMAGE.astype(int)).mean() < 12  # a preview is a JPEG, the image noise


def test_the_slider_acts_at_once_and_the_server_says_the_same(page):
    drop(page)
    probabilities = class_probabilities(IMAGE)
    for threshold in (0.05, 0.3, 0.8, 0.99):
        expected = decide_labels(probabilities, [threshold] * 2)
        # One expression: no answer of the server can come in between.
        at_once = page.run(
            f'(() => {{ $("threshold").value = {threshold};'
            '$("threshold").dispatchEvent(new Event("input")); return [...labels]; })()'
        )
        assert np.array_equal(np.asarray(at_once).reshape(IMAGE.shape[:2]), expected)
        assert page.run('$("threshold-value").textContent') == f'{threshold:.2f}'
    page.wait(SETTLED)
    assert marked(page) == int((expected > 0).sum())
    page.run('$("reset").click()')
    page.wait(SETTLED + ' && $("threshold-value").textContent === "model"')
    model_count = int((predict(IMAGE, INFO.thresholds).label_map > 0).sum())
    page.wait(f'labels.reduce((sum, value) => sum + (value > 0), 0) === {model_count}')


def test_small_regions_and_millimetres(page):
    drop(page)
    page.run('$("threshold").value = 0.3; $("threshold").oninput()')
    page.wait(f'{SETTLED} && {ROWS} === 3')
    page.run('$("area").value = 17; $("scale").value = 0.5; $("area").dispatchEvent(new Event("input"))')
    page.wait(f'{SETTLED} && {ROWS} === 2')
    assert page.run('document.querySelector("tbody tr").cells[5].textContent').endswith(' mm')


def test_a_chosen_row_is_marked(page):
    drop(page)
    page.run('document.querySelectorAll("tbody tr")[1].click()')
    assert page.run('chosen') == 1 and page.run('document.querySelectorAll("tr.chosen").length') == 1


def test_formats_that_browsers_do_not_show_and_turned_ones(page, tmp_path):
    for name, data, size in [
        ('part.tiff', encode(Image.fromarray(IMAGE), 'TIFF'), [128, 96]),
        ('turned.jpg', turned(IMAGE, 'JPEG', 6), [96, 128]),
    ]:
        path = tmp_path / name
        path.write_bytes(data)
        page.run('answer = null')
        page.choose_file('#file', path)
        page.wait(SETTLED)
        assert page.run('[view.width, view.height]') == size and page.run('answer.is_defective')


def test_good_parts(page):
    drop(page, np.full((60, 80, 3), 230, np.uint8))
    assert page.run('$("decision").textContent') == 'No defect' and page.run('$("decision").className') == 'good'


def test_errors_are_shown_and_pass(page):
    page.drop('part.png', b'no image', 'image/png')
    page.wait('$("error").textContent.startsWith("an upload must be one of PNG")')
    drop(page)
    assert page.run('$("error").textContent') == ''
    page.events[:] = [e for e in page.events if '415' not in json.dumps(e)]  # the console repeats the status


def test_docs(page, server):
    page.open(server.url + '/docs')
    page.wait('document.querySelectorAll("section").length === 4')
    text = page.run('document.body.innerText')
    assert 'POST /predict' in text and 'min_area_px' in text and '503' in text


def test_colours_follow_the_reader(server, tmp_path):
    with Browser(CHROMIUM, tmp_path, dark=True) as page:
        page.open(server.url + '/')
        colour = 'getComputedStyle(document.body).backgroundColor'
        dark = page.run(colour)
        page.run('$("theme").click()')
        assert page.run(colour) != dark and page.run('document.documentElement.dataset.theme') == 'light'


def test_a_token_is_asked_for_and_a_dead_server_noticed(tmp_path):
    with start_stand_in(token='s3cret') as server, Browser(CHROMIUM, tmp_path) as page:
        page.open(server.url + '/')
        page.wait('!$("token-row").hidden')
        page.run('$("token").value = "s3cret"; $("token").onchange()')
        page.wait('model !== null')
        drop(page)
        server.process.kill()
        server.process.wait()
        page.run('$("reset").onclick()')
        page.wait('$("error").textContent.startsWith("The server gave no answer")')
