"""The web application: routes in front of a :class:`PredictionService`, and who may use them."""
# Annotations here are read by FastAPI when a route is made, and name local classes: no `from __future__` for them.

import hmac
from collections.abc import Callable
from contextlib import asynccontextmanager
from importlib import resources
from typing import Annotated, Any, Literal

from mmdefect import __version__
from mmdefect.deployment.server import responses
from mmdefect.deployment.server.errors import RequestError
from mmdefect.deployment.server.service import PredictionService
from mmdefect.deployment.server.settings import ServerSettings
from mmdefect.deployment.server.uploads import drain
from mmdefect.deployment.types import PredictOptions, Predictor
from mmdefect.extras import require

#: The pages may run their own script and talk to this server, nothing else.
PAGE_HEADERS = {
    'Content-Security-Policy': "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    'X-Content-Type-Options': 'nosniff',
    'Referrer-Policy': 'no-referrer',
    'Cache-Control': 'no-cache',
}


def create_app(predictor: Predictor, settings: ServerSettings, on_ready: Callable[[], None] | None = None) -> Any:
    """Return an ASGI application of FastAPI; it closes the predictor when it shuts down.

    Args:
        predictor: the model.
        settings: limits, token and so on; the address is used by whoever runs the application.
        on_ready: called once requests are answered.
    """
    require('serve', who='the server')
    from fastapi import Depends, FastAPI, Request

    service = PredictionService(predictor, settings)

    @asynccontextmanager
    async def live(app):
        if on_ready:
            on_ready()
        yield
        service.close()

    async def guard(request: Request) -> None:
        check_host(request, settings)

    async def guard_with_token(request: Request) -> None:
        check_host(request, settings)
        check_token(request, settings)

    text = 'Defects in images: segmentation with class, score and size of every region.'
    app = FastAPI(title='mmdefect', version=__version__, docs_url=None, redoc_url=None, lifespan=live, description=text)
    app.state.service = service
    _add_predict(app, service, [Depends(guard_with_token)])
    _add_facts(app, service, [Depends(guard)], [Depends(guard_with_token)])
    _add_pages(app, [Depends(guard)])  # the pages hold nothing secret; what they ask for does
    _add_errors(app, service)
    return app


def check_token(request: Any, settings: ServerSettings) -> None:
    """Raise :class:`RequestError` 401 for a missing or wrong token."""
    if settings.token is None:
        return
    scheme, _, token = request.headers.get('authorization', '').partition(' ')
    # Bytes: texts outside ASCII cannot be compared in constant time.
    equal = hmac.compare_digest(token.strip().encode('utf-8', 'replace'), settings.token.encode())
    if scheme.lower() != 'bearer' or not equal:
        wanted = 'a request must carry the token of this server as `Authorization: Bearer TOKEN`'
        sentence = f'{wanted}, but this one carries none or another one; ask who runs the server.'
        raise RequestError('no_token', sentence, headers={'WWW-Authenticate': 'Bearer'})


def check_host(request: Any, settings: ServerSettings) -> None:
    """Raise :class:`RequestError` 421 for a request that addresses the server by a name that is not its own.

    A foreign web page can point its own name at a loopback address, and may then read the answers.
    """
    hosts, name = settings.answered_hosts, request.headers.get('host', '')
    bare = name.partition(']')[0] + ']' if name.startswith('[') else name.partition(':')[0].lower()
    if hosts and bare not in hosts:
        remedy = 'use one of these names or start the server with --allowed-host.'
        given = f'the server must be addressed as one of {", ".join(hosts)}, got {name[:80]!r}'
        raise RequestError('wrong_host', f'{given}; {remedy}')


def _add_predict(app, service: PredictionService, guards: list) -> None:
    from fastapi import Query, Request, Response
    from fastapi.responses import JSONResponse

    @app.post(
        '/predict',
        dependencies=guards,
        responses=responses.answers_of_predict(),
        response_class=JSONResponse,
        openapi_extra={'requestBody': responses.body_of_predict()},
        summary='Find the defects in an image',
    )
    async def predict(
        request: Request,
        threshold: Annotated[float | None, Query(gt=0, lt=1, description='of all classes')] = None,
        thresholds: Annotated[
            str | None, Query(max_length=4096, description='of single classes: crack:0.4,hole:0.7')
        ] = None,
        min_area_px: Annotated[int, Query(ge=0, le=2**31, description='smaller regions are dropped')] = 0,
        mm_per_pixel: Annotated[
            float | None,
            Query(gt=0, le=1e6, allow_inf_nan=False, description='side of a pixel, for sizes in millimetres'),
        ] = None,
        mask: Annotated[bool, Query(description='add the label map as PNG')] = False,
        scores: Annotated[bool, Query(description='add the scores as PNG')] = False,
        preview: Annotated[bool, Query(description='add the image that the model saw as JPEG')] = False,
        format: Annotated[
            Literal['json', 'png'] | None,
            Query(description='png: the label map alone, as the header `Accept: image/png` does'),
        ] = None,
    ):
        """Send the bytes of an image, or a form with one file; PNG, JPEG, BMP, TIFF or WebP."""
        chosen = responses.read_thresholds(service.info, threshold, thresholds)
        options = PredictOptions(chosen, min_area_px, mm_per_pixel, scores)
        png = format == 'png' or (format is None and _prefers_png(request.headers.get('accept', '')))
        wanted = {'mask': mask, 'scores': scores, 'preview': preview, 'mask_only': png}
        content = await service.answer(request, options, {name for name, wish in wanted.items() if wish})
        return Response(content, media_type='image/png' if png else 'application/json')


def _prefers_png(accept: str) -> bool:
    kinds = {part.partition(';')[0].strip().lower() for part in accept.split(',')}
    return 'image/png' in kinds and not kinds & {'application/json', '*/*'}


def _add_facts(app, service: PredictionService, open_to_all: list, guarded: list) -> None:
    from fastapi import Response
    from fastapi.responses import JSONResponse

    described = responses.described
    health = {200: described('They are.', responses.HEALTH), 503: described('No more.', responses.HEALTH)}

    @app.get('/healthz', dependencies=open_to_all, responses=health, summary='Whether predictions are made')
    async def healthz():
        alive = service.batcher.is_alive()
        facts = {'status': 'ok' if alive else 'stopping', 'in_flight': service.limits.in_flight}
        return JSONResponse(facts, 200 if alive else 503)

    about = {200: described('The model.', responses.MODEL)}

    @app.get('/model', dependencies=guarded, responses=about, summary='Classes, thresholds and limits')
    async def model():
        info, settings = service.info, service.settings
        facts = {
            'name': info.name,
            'kind': info.kind,
            'classes': info.classes,
            'palette': info.palette,
            'thresholds': dict(zip(info.classes[1:], info.thresholds, strict=True)),
            'part_rule': info.verdict(),
            'input_size_hw': info.input_size_hw,
            'max_body_bytes': settings.max_body_bytes,
            'max_pixels': settings.max_pixels,
        }
        return JSONResponse(facts)

    @app.get('/metrics', dependencies=guarded, summary='Counters for Prometheus', response_class=Response)
    async def metrics():
        text, media_type = service.metrics.render()
        return Response(text, media_type=media_type)


def _add_pages(app, guards: list) -> None:
    from fastapi.responses import HTMLResponse

    def add_page(route: str, name: str) -> None:
        text = resources.files('mmdefect.deployment.server').joinpath(name).read_text(encoding='utf-8')

        @app.get(route, dependencies=guards, include_in_schema=False)
        async def page():
            return HTMLResponse(text, headers=PAGE_HEADERS)

    add_page('/', 'page.html')
    add_page('/docs', 'docs.html')


def _add_errors(app, service: PredictionService) -> None:
    from fastapi import HTTPException, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse

    @app.exception_handler(RequestError)
    async def answer(request: Request, err: RequestError):
        if request.url.path == '/predict':
            service.metrics.count_error(err.status, err.reason)
        await drain(request)
        return JSONResponse({'error': err.sentence, 'reason': err.reason}, err.status, err.headers)

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, err: RequestValidationError):
        first = err.errors()[0]
        name, message = first['loc'][-1], first['msg'][:1].lower() + first['msg'][1:]
        sentence = f'`{name}` is wrong: {message}, got {str(first["input"])[:80]!r}; see /docs.'
        return await answer(request, RequestError('invalid_options', sentence))

    @app.exception_handler(404)
    @app.exception_handler(405)
    async def on_http(request: Request, err: HTTPException):
        path = f'{request.method} {request.url.path[:80]!r}'
        sentence = f'there must be a route for {path}, but there is none; see /docs.'
        return await answer(request, RequestError('no_such_route', sentence, err.status_code, err.headers))

    @app.exception_handler(Exception)
    async def on_failure(request: Request, err: Exception):
        sentence = 'the server must answer, but it failed on this request; its log says why.'
        return await answer(request, RequestError('failed', sentence))
