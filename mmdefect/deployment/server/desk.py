"""The way of one request: admitted, read, decoded, predicted, answered."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from numpy import ndarray

from mmdefect.deployment.decoding import DecodedImage
from mmdefect.deployment.defects import TooManyRegions
from mmdefect.deployment.server.admission import Admission, Ticket
from mmdefect.deployment.server.answers import as_text, encode_preview, encode_scores, make_answer
from mmdefect.deployment.server.batching import MicroBatcher
from mmdefect.deployment.server.images import decode_upload, read_upload_header
from mmdefect.deployment.server.metrics import ServerMetrics
from mmdefect.deployment.server.options import PredictOptions
from mmdefect.deployment.server.refusals import Refusal
from mmdefect.deployment.server.settings import ServerSettings
from mmdefect.deployment.server.uploads import declared_length, read_upload
from mmdefect.deployment.types import Prediction, Predictor
from mmdefect.deployment.writing import encode_label_png

LOG = logging.getLogger('mmdefect.server')
#: Bytes of float32 that a class probability takes, and times that an upload lies in memory while it is read.
_FLOAT, _COPIES = 4, 2


@dataclass(frozen=True)
class Wishes:
    """Which images an answer carries."""

    mask: bool = False
    scores: bool = False
    preview: bool = False
    mask_only: bool = False


class PredictionDesk:
    """Everything that lives as long as the server: the queue in front of the model, threads, counters.

    Args:
        predictor: that the server owns from now on.
        settings: of the server.
    """

    def __init__(self, predictor: Predictor, settings: ServerSettings) -> None:
        self.info = predictor.info
        self.settings = settings
        self._predictor = predictor
        self.admission = Admission(settings.queue_size, settings.memory_bytes, lambda: self.batcher.seconds_per_image)
        self.metrics = ServerMetrics(
            self.info, lambda: self.admission.in_flight, lambda: len(self.batcher), lambda: self.admission.held_bytes
        )
        self.batcher = MicroBatcher(
            self._predict,
            settings.max_batch,
            settings.max_delay_s,
            lambda: self.admission.arriving,
            self.metrics.count_batch,
        )
        self._threads = ThreadPoolExecutor(settings.decode_threads, 'images')

    def _predict(self, images: list[ndarray], options: PredictOptions) -> list[Prediction]:
        return self._predictor.predict_batch(
            images, options.thresholds, options.min_area_px, options.mm_per_pixel, options.with_probabilities
        )

    def close(self) -> None:
        """Finish what is queued and free the model, unless it hangs."""
        if self.batcher.close(self.settings.shutdown_timeout_s):
            self._predictor.close()
        else:
            LOG.error(
                'the model has not answered for %g s; it is left to end with the process.',
                self.settings.shutdown_timeout_s,
            )
        self._threads.shutdown()

    async def answer(self, request: Any, options: PredictOptions, wishes: Wishes) -> bytes:
        """Return the prediction of the image in a request: the text of a JSON answer, or a mask as PNG.

        Raises:
            Refusal: if there is none.
        """
        start = time.perf_counter()
        with self.admission.admit() as ticket:
            image = await self._receive(request, ticket, options)
            future = self.batcher.submit(image.pixels, options)
            ticket.queued()
            prediction = await self._wait(request, future)
            content = await self._in_thread(self._write, prediction, image, options, wishes, start)
            self.metrics.count_answer(prediction, time.perf_counter() - start)
            return content

    async def _receive(self, request: Any, ticket: Ticket, options: PredictOptions) -> DecodedImage:
        settings = self.settings
        length = declared_length(request)
        longest = settings.max_body_bytes if length is None else min(length, settings.max_body_bytes)
        ticket.hold(_COPIES * longest)
        data = await read_upload(request, settings.max_body_bytes, settings.body_timeout_s)
        header = await self._in_thread(read_upload_header, data, settings.max_pixels)
        maps = len(self.info.classes) * _FLOAT if options.with_probabilities else 0
        ticket.hold(len(data) + header.pixels * (3 + 1 + maps))
        return await self._in_thread(decode_upload, data, settings.max_pixels)

    async def _wait(self, request: Any, future: Any) -> Prediction:
        """Wait for a prediction, but not for one that nobody waits for any more."""
        result = asyncio.wrap_future(future)
        gone = asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait([result, gone], return_when=asyncio.FIRST_COMPLETED)
            if result.done():
                return _result(result)
            raise Refusal(400, 'left', 'a client must wait for the answer, but this one left before.')
        finally:
            gone.cancel()
            result.cancel()  # takes the image out of the queue, unless its batch has begun

    async def _in_thread(self, function, *arguments):
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    def _write(
        self, prediction: Prediction, image: DecodedImage, options: PredictOptions, wishes: Wishes, start: float
    ) -> bytes:
        if wishes.mask_only:
            return encode_label_png(prediction.label_map, self.info.palette)
        answer = make_answer(prediction, options, self.info, image.header.notes)
        if wishes.mask:
            answer['mask_png'] = as_text(encode_label_png(prediction.label_map, self.info.palette))
        if wishes.scores:
            answer['scores_png'] = as_text(encode_scores(prediction.probabilities))
        if wishes.preview:
            answer['preview_jpeg'] = as_text(encode_preview(image.pixels))
        answer['seconds'] = round(time.perf_counter() - start, 6)
        return json.dumps(answer, ensure_ascii=False, allow_nan=False).encode()


def _result(future: asyncio.Future) -> Prediction:
    try:
        return future.result()
    except TooManyRegions as err:
        raise Refusal(422, 'too_many_defects', str(err)) from err
    except Exception as err:  # whatever a model raises; the batcher keeps running
        LOG.error('the model failed on an image', exc_info=err)
        raise Refusal(
            500, 'failed', 'the model must answer, but it failed on this image; the log of the server says why.'
        ) from err


async def _disconnected(request: Any) -> None:
    while (await request.receive())['type'] != 'http.disconnect':
        pass
