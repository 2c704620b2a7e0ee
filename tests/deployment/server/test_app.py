"""The routes, without a network: answers, errors, limits, and what a request can never do."""

from __future__ import annotations

import base64
import io
import json
import re
import sys
import threading
import time
from importlib import import_module

import numpy as np
import pytest
from PIL import Image

from mmdefect.deployment.server import responses
from mmdefect.deployment.server.settings import ServerSettings
from mmdefect.deployment.types import ModelInfo, Prediction
from mmdefect.extras import MODULES
from tests.deployment.server.asgi_client import AsgiClient, Body
from tests.deployment.server.stand_in import INFO, StandIn, predict
from tests.deployment.server.upload_cases import encode, form, good_uploads, hostile_uploads, scene

for package in MODULES['serve']:
    pytest.importorskip(package)

from mmdefect.deployment.server.app import create_app  # noqa: E402

PNG = encode(Image.fromarray(scene()), 'PNG')


def serve(predictor=None, **settings) -> AsgiClient:
    return AsgiClient(create_app(predictor or StandIn(), ServerSettings(**settings)))


@pytest.fixture(scope='module')
def client():
    with serve() as running:
        yield running


def check(value, schema) -> None:
    """A value against the few words of JSON Schema that the descriptions use; nothing undescribed may be there."""
    kinds = {
        'number': (int, float),
        'integer': int,
        'string': str,
        'boolean': bool,
        'array': list,
        'object': dict,
        'null': type(None),
    }
    if 'enum' in schema:
        assert value in schema['enum']
        return
    names = schema['type'] if isinstance(schema['type'], list) else [schema['type']]
    fits = [isinstance(value, kinds[n]) and (n == 'boolean' or not isinstance(value, bool)) for n in names]
    assert any(fits), (value, schema)
    if isinstance(value, list):
        assert schema.get('minItems', 0) <= len(value) <= schema.get('maxItems', 10**9)
        for item in value:
            check(item, schema['items'])
    if isinstance(value, dict):
        assert set(schema.get('required', ())) <= set(value)
        for name, item in value.items():
            check(item, schema['properties'][name] if 'properties' in schema else schema['additionalProperties'])


class TestPredict:
    def test_the_answer_is_the_prediction(self, client):
        query = 'threshold=0.3&min_area_px=50&mm_per_pixel=0.5'
        answer = client.post('/predict?' + query, PNG, content_type='image/png').json()
        check(answer, responses.PREDICTION)
        expected = predict(scene(), (0.3, 0.3), 50, 0.5)
        assert answer['defects'] == [defect.to_dict() for defect in expected.defects] and len(expected.defects) == 2
        assert answer['thresholds'] == {'dent': 0.3, 'stain': 0.3} and answer['min_area_px'] == 50
        assert answer['is_defective'] and answer['image_score'] == expected.image_score
        assert (answer['width'], answer['height'], answer['model']) == (128, 96, 'stand-in')

    def test_thresholds_of_the_model_hold_unless_others_are_given(self, client):
        answer = client.post('/predict', PNG).json()
        assert answer['thresholds'] == dict(zip(INFO.classes[1:], INFO.thresholds, strict=True))
        assert client.post('/predict?thresholds=stain:0.9', PNG).json()['thresholds'] == {'dent': 0.5, 'stain': 0.9}

    def test_a_form_and_a_raw_body_say_the_same(self, client):
        body, content_type = form(PNG)
        answers = [
            client.post('/predict', PNG, content_type='image/png').json(),
            client.post('/predict', body, content_type=content_type).json(),
            client.post('/predict', Body([body[:30], body[30:31], body[31:]]), content_type=content_type).json(),
        ]
        for answer in answers:
            del answer['seconds']
        assert answers[0] == answers[1] == answers[2]

    @pytest.mark.parametrize(
        'query, headers',
        [('?format=png', {}), ('', {'accept': 'image/png'}), ('', {'accept': 'image/png;q=0.9, image/webp'})],
    )
    def test_a_mask_alone(self, client, query, headers):
        answer = client.post('/predict' + query, PNG, **headers)
        assert answer.status == 200 and answer.headers['content-type'] == 'image/png'
        labels = np.asarray(Image.open(io.BytesIO(answer.body)))
        assert np.array_equal(labels, predict(scene(), INFO.thresholds).label_map)

    @pytest.mark.parametrize('accept', ['*/*', 'application/json', 'image/png, */*', 'text/html, application/json'])
    def test_everybody_else_gets_json(self, client, accept):
        assert 'defects' in client.post('/predict', PNG, accept=accept).json()
        assert 'defects' in client.post('/predict?format=json', PNG, accept='image/png').json()

    def test_images_within_the_answer(self, client):
        answer = client.post('/predict?mask=true&scores=true&preview=true', PNG).json()
        check(answer, responses.PREDICTION)
        sizes = {
            Image.open(io.BytesIO(base64.b64decode(answer[name]))).size
            for name in ('mask_png', 'scores_png', 'preview_jpeg')
        }
        assert sizes == {(128, 96)}

    @pytest.mark.parametrize('name, data, image', good_uploads(5), ids=lambda v: v if isinstance(v, str) else '')
    def test_every_kind_of_image(self, client, name, data, image):
        answer = client.post('/predict', data, content_type='application/octet-stream').json()
        assert answer['is_defective']
        words = {'turned': 'turned upright', '16-bit': '16 bits', 'cmyk': 'CMYK', 'alpha': 'alpha', 'grey': 'grey'}
        assert any(words.get(name.split()[0], '') in note for note in answer['notes'] or [''])
        if image is not None:
            assert answer['defects'] == [d.to_dict() for d in predict(image, INFO.thresholds).defects]

    @pytest.mark.parametrize('name, data, statuses', hostile_uploads(5), ids=lambda v: v if isinstance(v, str) else '')
    def test_every_kind_of_attack(self, client, name, data, statuses):
        body, content_type = form(data)
        for answer in (
            client.post('/predict', data, content_type='image/png'),
            client.post('/predict', body, content_type=content_type),
        ):
            assert answer.status in statuses
            if answer.status != 200:
                check(answer.json(), responses.ERROR)
                sentence = answer.json()['error']
                assert sentence.endswith('.') and not re.search(r'\.\s', sentence) and '\n' not in sentence
        assert client.post('/predict', PNG).status == 200

    @pytest.mark.parametrize(
        'query',
        [
            'threshold=0',
            'threshold=1',
            'threshold=nan',
            'threshold=x',
            'thresholds=good:0.5',
            'thresholds=dent:2',
            'min_area_px=-1',
            'min_area_px=1e3',
            'mm_per_pixel=0',
            'mm_per_pixel=inf',
            'mask=perhaps',
            'format=gif',
            'min_area_px=' + '9' * 5000,
        ],
    )
    def test_wrong_options(self, client, query):
        answer = client.post('/predict?' + query, PNG)
        assert answer.status == 422 and answer.json()['reason'] == 'invalid_options'
        assert query.partition('=')[0].removesuffix('s') in answer.json()['error'] and len(answer.json()['error']) < 400


def test_an_anomaly_model_is_served_alike():
    """One defect class, the thresholded heat map; scores work as for classes."""
    model = StandIn()
    model.info = ModelInfo(('good', 'anomaly'), ((0, 0, 0), (255, 0, 0)), (0.5,), kind='anomaly', name='heat')
    with serve(model) as client:
        model.predict_batch = lambda images, thresholds, *_: [anomalies(image, thresholds[0]) for image in images]
        assert client.get('/model').json()['kind'] == 'anomaly'
        answer = client.post('/predict?scores=true&mask=true&threshold=0.3', PNG).json()
        check(answer, responses.PREDICTION)
        scores, mask = (
            np.asarray(Image.open(io.BytesIO(base64.b64decode(answer[name])))) for name in ('scores_png', 'mask_png')
        )
        assert set(answer['thresholds']) == {'anomaly'} and mask.any() and not mask.all()
        assert np.array_equal(scores[..., 0] * 256.0 + scores[..., 1] > 0.3 * 65535, mask == 1)


def anomalies(image: np.ndarray, threshold: float) -> Prediction:
    heat = 1 - image.max(-1).astype(np.float32) / 255
    return Prediction((heat > threshold).astype(np.uint8), np.stack([1 - heat, heat]), [], True, float(heat.max()))


class TestLimits:
    def test_bytes_and_pixels(self):
        with serve(max_body_bytes=20_000, max_pixels=10_000) as client:
            small = encode(Image.fromarray(scene(height=64, width=64)), 'JPEG')
            assert client.post('/predict', small).status == 200
            pixels = client.post('/predict', encode(Image.new('RGB', (200, 51)), 'PNG'))
            assert pixels.status == 413 and '200 x 51' in pixels.json()['error']
            assert client.post('/predict', bytes(20_001)).status == 413
            assert client.post('/predict', Body([bytes(7000)] * 3)).status == 413
            assert client.post('/predict', b'', content_length='20001').status == 413

    def test_memory_of_one_request(self):
        with serve(max_body_bytes=10_000, memory_bytes=60_000) as client:
            image = encode(Image.new('RGB', (120, 110)), 'PNG')
            assert client.post('/predict', image).status == 200  # 120 x 110 x 4 bytes
            answer = client.post('/predict?scores=true', image)  # and 3 x 4 bytes of probabilities for each
            assert answer.status == 413 and 'memory' in answer.json()['error']
            assert client.app.state.service.limits.held_bytes == 0

    def test_overload(self):
        gate = threading.Event()
        with serve(StandIn(gate=gate), queue_size=3, max_delay_s=0.0) as client:
            running = [client.send('POST', '/predict', PNG) for _ in range(3)]
            wait_for(lambda: client.app.state.service.limits.in_flight == 3)
            rejected = client.post('/predict', PNG)
            assert rejected.status == 503 and int(rejected.headers['retry-after']) >= 1
            assert rejected.json()['reason'] == 'overloaded'
            assert client.get('/healthz').status == 200  # busy is not ill
            gate.set()
            assert [answer.result(30).status for answer in running] == [200] * 3
            assert client.post('/predict', PNG).status == 200

    def test_a_slow_upload_gives_its_place_back(self):
        with serve(body_timeout_s=0.1) as client:
            body = Body([PNG[:50]], stalls=True)
            answer = client.send('POST', '/predict', body)
            time.sleep(0.3)
            client.leave(body)
            assert answer.result(30).status == 408
            assert client.app.state.service.limits.in_flight == 0

    def test_who_leaves_frees_the_model(self):
        gate = threading.Event()
        model = StandIn(gate=gate)
        with serve(model, max_delay_s=0.0) as client:
            first = client.send('POST', '/predict', PNG)
            wait_for(lambda: model.calls)
            body = Body([PNG])
            second = client.send('POST', '/predict', body)
            wait_for(lambda: len(client.app.state.service.batcher) == 1)
            client.leave(body)
            assert second.result(30).status == 400
            gate.set()
            assert first.result(30).status == 200
            assert client.post('/predict', PNG).status == 200
        assert [size for size, *_ in model.calls] == [1, 1]


class TestBatches:
    def test_requests_at_once_share_the_model_and_keep_their_own_answers(self):
        gate = threading.Event()
        model = StandIn(gate=gate)
        with serve(model, max_batch=4, max_delay_s=0.0) as client:
            answers = [client.send('POST', '/predict', PNG)]
            wait_for(lambda: model.calls)
            images = [scene(seed) for seed in range(6)]
            answers += [client.send('POST', '/predict', encode(Image.fromarray(image), 'PNG')) for image in images]
            wait_for(lambda: len(client.app.state.service.batcher) == 6)
            gate.set()
            for image, answer in zip(images, answers[1:], strict=True):
                got = answer.result(30).json()['defects']
                assert got == [d.to_dict() for d in predict(image, INFO.thresholds).defects]
        assert [size for size, *_ in model.calls] == [1, 4, 2] and model.closed

    def test_other_options_are_another_batch(self):
        gate = threading.Event()
        model = StandIn(gate=gate)
        with serve(model, max_delay_s=0.0) as client:
            answers = [client.send('POST', '/predict', PNG)]
            wait_for(lambda: model.calls)
            for query in ('?threshold=0.2', '?threshold=0.4', '?threshold=0.2', '?min_area_px=9'):
                answers.append(client.send('POST', '/predict' + query, PNG))
            wait_for(lambda: len(client.app.state.service.batcher) == 4)
            gate.set()
            assert [a.result(30).status for a in answers] == [200] * 5
        assert sorted(model.calls[1:]) == sorted([(2, (0.2, 0.2), 0), (1, (0.4, 0.4), 0), (1, (0.5, 0.6), 9)])

    def test_an_image_that_the_model_cannot_take(self):
        with serve(StandIn(fails_on=77)) as client:
            bad = client.post('/predict', encode(Image.new('RGB', (77, 20)), 'PNG'))
            assert bad.status == 500 and bad.json()['reason'] == 'failed' and 'unlucky' not in bad.json()['error']
            assert client.post('/predict', PNG).status == 200


class TestAccess:
    @pytest.mark.parametrize(
        'header',
        [
            None,
            'Bearer',
            'Bearer ',
            'Bearer wrong',
            'Basic s3cret',
            's3cret',
            'Bearer s3cret2',
            'Bearer s3cre',
            'Bearer \xe9',
        ],
    )
    def test_without_the_token_nothing_is_told(self, header):
        with serve(token='s3cret') as client:
            headers = {} if header is None else {'authorization': header}
            for answer in (
                client.post('/predict', PNG, **headers),
                client.get('/metrics', **headers),
                client.get('/model', **headers),
            ):
                assert answer.status == 401 and answer.headers['www-authenticate'] == 'Bearer'
            assert client.get('/healthz').status == client.get('/').status == 200

    @pytest.mark.parametrize('scheme', ['Bearer', 'bearer', 'BEARER'])
    def test_with_it_everything_is(self, scheme):
        with serve(token='s3cret') as client:
            assert client.post('/predict', PNG, authorization=f'{scheme} s3cret').status == 200
            assert client.get('/metrics', authorization=f'{scheme} s3cret').status == 200

    @pytest.mark.parametrize(
        'host, status',
        [
            ('127.0.0.1:8000', 200),
            ('localhost', 200),
            ('[::1]:9', 200),
            ('LOCALHOST:1', 200),
            ('evil.example', 421),
            ('localhost.evil.example', 421),
            ('', 421),
        ],
    )
    def test_foreign_names_of_a_loopback_server(self, client, host, status):
        assert client.post('/predict', PNG, host=host).status == status
        assert client.get('/', host=host).status == status

    def test_names_elsewhere(self):
        with serve(host='0.0.0.0') as client:
            assert client.get('/healthz', host='camera-pc').status == 200
        with serve(host='0.0.0.0', allowed_hosts=('camera-pc',)) as client:
            assert client.get('/healthz', host='camera-pc:80').status == 200
            assert client.get('/healthz', host='127.0.0.1').status == 421

    def test_no_name_in_a_request_is_ever_opened(self, client, tmp_path):
        opened, watching = [], [True]  # a hook stays until the end of the process
        sys.addaudithook(lambda event, args: opened.append(str(args[0])) if watching and event == 'open' else None)
        secret = tmp_path / 'secret.png'
        secret.write_bytes(PNG)
        assert str(secret) in opened  # the hook does see files
        opened.clear()
        for name in (str(secret), '../../secret.png', 'file://' + str(secret), 'http://127.0.0.1/secret.png'):
            body, content_type = form(PNG, name=name)
            assert client.post('/predict', body, content_type=content_type).status == 200
            assert client.post(f'/predict?path={name}&image={name}', PNG).status == 200
            assert client.post('/predict', name.encode(), content_type='image/png').status == 415
            assert client.get('/' + name.lstrip('/')).status == 404
        watching.clear()
        assert not [name for name in opened if 'secret' in name]


class TestFacts:
    def test_health(self, client):
        answer = client.get('/healthz')
        check(answer.json(), responses.HEALTH)
        assert answer.status == 200 and answer.json() == {'status': 'ok', 'in_flight': 0}

    def test_model(self, client):
        model = client.get('/model').json()
        check(model, responses.MODEL)
        assert model['classes'] == list(INFO.classes) and model['max_pixels'] == ServerSettings().max_pixels
        assert model['part_rule'] == 'a part is rejected when any pixel is decided as a defect.'

    def test_metrics_count(self):
        with serve(max_body_bytes=10_000_000) as client:
            for _ in range(3):
                client.post('/predict', PNG)
            client.post('/predict', encode(Image.new('RGB', (20, 20), 'white'), 'PNG'))
            client.post('/predict', b'nonsense')
            client.get('/nowhere')
            answer = client.get('/metrics')
            assert answer.headers['content-type'].startswith('text/plain')
            values = dict(line.rsplit(' ', 1) for line in answer.body.decode().splitlines() if not line.startswith('#'))
        assert values['mmdefect_requests_total{status="200"}'] == '4.0'
        assert values['mmdefect_requests_total{status="415"}'] == '1.0'
        assert values['mmdefect_refusals_total{reason="unsupported"}'] == '1.0'
        assert values['mmdefect_images_total{decision="defective"}'] == '3.0'
        assert values['mmdefect_images_total{decision="good"}'] == '1.0'
        assert values['mmdefect_defects_total{defect_class="dent"}'] == '3.0'
        assert values['mmdefect_batch_images_count'] == '4.0' and values['mmdefect_in_flight'] == '0.0'
        assert float(values['process_resident_memory_bytes']) > 1e7

    def test_unknown_routes_and_methods(self, client):
        assert client.get('/nowhere').status == 404 and client.get('/predict').status == 405
        check(client.get('/nowhere').json(), responses.ERROR)

    def test_the_description_names_everything(self, client):
        api = json.loads(client.get('/openapi.json').body)
        assert set(api['paths']) == {'/predict', '/healthz', '/model', '/metrics'}
        predict_route = api['paths']['/predict']['post']
        assert {p['name'] for p in predict_route['parameters']} == {
            'threshold',
            'thresholds',
            'min_area_px',
            'mm_per_pixel',
            'mask',
            'scores',
            'preview',
            'format',
        }
        assert {int(code) for code in predict_route['responses']} >= {200, 401, 413, 415, 422, 503}

    @pytest.mark.parametrize('route', ['/', '/docs'])
    def test_pages_need_no_network(self, client, route):
        page = client.get(route)
        text = page.body.decode()
        assert page.status == 200 and page.headers['content-type'].startswith('text/html')
        assert not re.search(r'https?:|//\w|@import|url\(', text.replace('// ', ''))
        assert "default-src 'none'" in page.headers['content-security-policy']


class TestSettings:
    def test_a_missing_package_is_named_with_its_extra(self, monkeypatch):
        monkeypatch.setitem(sys.modules, 'uvicorn', None)
        with pytest.raises(ImportError, match=r'uvicorn.*mmdefect\[serve\]'):
            create_app(StandIn(), ServerSettings())

    @pytest.mark.parametrize(
        'wrong',
        [
            dict(port=-1),
            dict(queue_size=0),
            dict(max_delay_s=-1.0),
            dict(token=''),
            dict(token='a b'),
            dict(token='\xe9'),
            dict(body_timeout_s=float('nan')),
        ],
    )
    def test_wrong_settings(self, wrong):
        with pytest.raises(ValueError, match=f'`{next(iter(wrong))}` must'):
            ServerSettings(**wrong)

    def test_a_token_is_not_printed(self):
        assert 's3cret' not in repr(ServerSettings(token='s3cret'))

    @pytest.mark.parametrize(
        'host, loopback',
        [
            ('127.0.0.1', True),
            ('::1', True),
            ('localhost', True),
            ('127.9.9.9', True),
            ('0.0.0.0', False),
            ('::', False),
            ('camera-pc', False),
        ],
    )
    def test_loopback(self, host, loopback):
        assert ServerSettings(host=host).is_loopback is loopback

    def test_closing_closes_the_model(self):
        model = StandIn()
        with serve(model) as client:
            assert client.get('/healthz').status == 200
        assert model.closed


def test_no_web_package_is_imported_before_a_server_is_made():
    """So that the layer can be imported without the extra; other tests of this file have loaded them by now."""
    import subprocess

    names = ('app', 'batching', 'errors', 'limits', 'metrics', 'responses', 'run', 'service', 'settings', 'uploads')
    code = ''.join(f'import mmdefect.deployment.server.{name}\n' for name in names)
    code += f'import sys; assert not set(sys.modules) & {{*{MODULES["serve"]!r}}}'
    subprocess.run([sys.executable, '-c', code], check=True, timeout=60)
    for name in names:
        import_module(f'mmdefect.deployment.server.{name}')


def wait_for(condition, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, 'it never came'
        time.sleep(0.005)
