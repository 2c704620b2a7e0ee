"""The web application: routes in front of a :class:`PredictionDesk`."""
# Annotations here are read by FastAPI when a route is made, and name local classes: no `from __future__` for them.

from collections.abc import Callable
from contextlib import asynccontextmanager
from importlib import resources
from typing import Annotated, Any, Literal

from mmdefect import __version__
from mmdefect.deployment.server import schemas
from mmdefect.deployment.server.access import check_host, check_token
from mmdefect.deployment.server.desk import PredictionDesk, Wishes
from mmdefect.deployment.server.options import PredictOptions, read_thresholds
from mmdefect.deployment.server.packages import require_packages
from mmdefect.deployment.server.refusals import Refusal
from mmdefect.deployment.server.settings import ServerSettings
from mmdefect.deployment.server.uploads import drain
from mmdefect.deployment.types import Predictor

#: The pages may run their own script and talk to this server, nothing else.
PAGE_HEADERS = {
    'Content-Security-Policy': "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    'X-Content-Type-Options': 'nosniff',
    'Referrer-Policy': 'no-referrer',
    'Cache-Control': 'no-cache',
}


def create_app(
    predictor: Predictor, settings: ServerSettings = ServerSettings(), on_ready: Callable[[], None] | None = None
) -> Any:
    """Make the application.

    Args:
        predictor: closed when the application shuts down.
        settings: limits, token and so on; the address is for who runs the application.
        on_ready: called once requests are answered.

    Returns:
        An ASGI application of FastAPI.

    Raises:
        ImportError: naming the extra ``serve``, if a package is missing.
    """
    require_packages()
    from fastapi import Depends, FastAPI

    desk = PredictionDesk(predictor, settings)

    @asynccontextmanager
    async def live(app):
        if on_ready:
            on_ready()
        yield
        desk.close()

    app = FastAPI(
        title='mmdefect',
        version=__version__,
        docs_url=None,
        redoc_url=None,
        lifespan=live,
        description='Defects in images: segmentation with class, score and size of every region.',
    )
    app.state.desk = desk
    _add_predict(app, desk, [Depends(_guard(settings, with_token=True))])
    _add_facts(app, desk, settings)
    _add_pages(app, settings)
    _add_errors(app, desk)
    return app


def _guard(settings: ServerSettings, with_token: bool) -> Callable:
    from fastapi import Request

    async def guard(request: Request) -> None:
        check_host(request, settings)
        if with_token:
            check_token(request, settings)

    return guard


def _add_predict(app, desk: PredictionDesk, guards: list) -> None:
    from fastapi import Query, Request, Response
    from fastapi.responses import JSONResponse

    @app.post(
        '/predict',
        dependencies=guards,
        responses=schemas.answers_of_predict(),
        response_class=JSONResponse,
        openapi_extra={'requestBody': schemas.body_of_predict()},
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
        options = PredictOptions(read_thresholds(desk.info, threshold, thresholds), min_area_px, mm_per_pixel, scores)
        png = format == 'png' or (format is None and _prefers_png(request.headers.get('accept', '')))
        content = await desk.answer(request, options, Wishes(mask, scores, preview, png))
        return Response(content, media_type='image/png' if png else 'application/json')


def _prefers_png(accept: str) -> bool:
    kinds = {part.partition(';')[0].strip().lower() for part in accept.split(',')}
    return 'image/png' in kinds and not kinds & {'application/json', '*/*'}


def _add_facts(app, desk: PredictionDesk, settings: ServerSettings) -> None:
    from fastapi import Depends, Response
    from fastapi.responses import JSONResponse

    host, host_and_token = ([Depends(_guard(settings, with_token))] for with_token in (False, True))

    @app.get(
        '/healthz',
        dependencies=host,
        summary='Whether predictions are made',
        response_class=JSONResponse,
        responses={
            code: {'description': text, 'content': {'application/json': {'schema': schemas.HEALTH}}}
            for code, text in ((200, 'They are.'), (503, 'No more.'))
        },
    )
    async def healthz():
        alive = desk.batcher.is_alive()
        return JSONResponse(
            {'status': 'ok' if alive else 'stopping', 'in_flight': desk.admission.in_flight}, 200 if alive else 503
        )

    @app.get(
        '/model',
        dependencies=host_and_token,
        summary='Classes, thresholds and limits',
        response_class=JSONResponse,
        responses={200: {'description': 'The model.', 'content': {'application/json': {'schema': schemas.MODEL}}}},
    )
    async def model():
        info = desk.info
        return JSONResponse(
            {
                'name': info.name,
                'kind': info.kind,
                'classes': info.classes,
                'palette': info.palette,
                'thresholds': dict(zip(info.classes[1:], info.thresholds, strict=True)),
                'input_size_hw': info.input_size_hw,
                'max_body_bytes': settings.max_body_bytes,
                'max_pixels': settings.max_pixels,
            }
        )

    @app.get('/metrics', dependencies=host_and_token, summary='Counters for Prometheus', response_class=Response)
    async def metrics():
        text, media_type = desk.metrics.render()
        return Response(text, media_type=media_type)


def _add_pages(app, settings: ServerSettings) -> None:
    from fastapi import Depends
    from fastapi.responses import HTMLResponse

    guards = [Depends(_guard(settings, with_token=False))]  # the pages hold nothing secret; what they ask for does

    def serve_page(route: str, name: str) -> None:
        text = resources.files('mmdefect.deployment.server').joinpath(name).read_text(encoding='utf-8')

        @app.get(route, dependencies=guards, include_in_schema=False)
        async def page():
            return HTMLResponse(text, headers=PAGE_HEADERS)

    serve_page('/', 'page.html')
    serve_page('/docs', 'docs.html')


def _add_errors(app, desk: PredictionDesk) -> None:
    from fastapi import HTTPException, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import JSONResponse

    async def refuse(request: Request, refusal: Refusal):
        if request.url.path == '/predict':
            desk.metrics.count_refusal(refusal.status, refusal.reason)
        await drain(request)
        return JSONResponse({'error': refusal.sentence, 'reason': refusal.reason}, refusal.status, refusal.headers)

    @app.exception_handler(Refusal)
    async def on_refusal(request: Request, err: Refusal):
        return await refuse(request, err)

    @app.exception_handler(RequestValidationError)
    async def on_invalid(request: Request, err: RequestValidationError):
        first = err.errors()[0]
        name, message = first['loc'][-1], first['msg'][:1].lower() + first['msg'][1:]
        return await refuse(
            request,
            Refusal(
                422, 'invalid_options', f'`{name}` is wrong: {message}, got {str(first["input"])[:80]!r}; see /docs.'
            ),
        )

    @app.exception_handler(404)
    @app.exception_handler(405)
    async def on_http(request: Request, err: HTTPException):
        refusal = Refusal(
            err.status_code,
            'no_such_route',
            f'there must be a route for {request.method} {request.url.path[:80]!r}, but there is none; see /docs.',
        )
        refusal.headers.update(err.headers or {})
        return await refuse(request, refusal)

    @app.exception_handler(Exception)
    async def on_failure(request: Request, err: Exception):
        return await refuse(
            request, Refusal(500, 'failed', 'the server must answer, but it failed on this request; its log says why.')
        )
