"""The way of one request: admitted, read, decoded, predicted, answered."""

import asyncio
import json
import logging
import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from numpy import ndarray

from mmdefect.deployment.decoding import DecodedImage
from mmdefect.deployment.defects import TooManyRegions
from mmdefect.deployment.server.batching import MicroBatcher
from mmdefect.deployment.server.errors import RequestError
from mmdefect.deployment.server.limits import RequestLimits, Slot
from mmdefect.deployment.server.metrics import ServerMetrics
from mmdefect.deployment.server.responses import as_text, encode_preview, encode_scores, make_answer
from mmdefect.deployment.server.settings import ServerSettings
from mmdefect.deployment.server.uploads import declared_length, decode_upload, read_upload, read_upload_header
from mmdefect.deployment.types import Prediction, PredictOptions, Predictor
from mmdefect.deployment.writing import encode_label_png

LOG = logging.getLogger('mmdefect.server')


class PredictionService:
    """Everything that lives as long as the server: the model and the queue in front of it, threads, counters."""

    def __init__(self, predictor: Predictor, settings: ServerSettings) -> None:
        self.info, self.settings, self._predictor = predictor.info, settings, predictor
        limits = RequestLimits(settings.queue_size, settings.memory_bytes, lambda: self.batcher.seconds_per_image)
        self.limits = limits
        self.metrics = ServerMetrics(
            self.info, lambda: limits.in_flight, lambda: len(self.batcher), lambda: limits.held_bytes
        )
        size, delay_s, count = settings.max_batch, settings.max_delay_s, self.metrics.count_batch
        self.batcher = MicroBatcher(self._predict, size, delay_s, lambda: limits.arriving, count)
        self._threads = ThreadPoolExecutor(settings.decode_threads, 'images')

    def _predict(self, images: list[ndarray], options: PredictOptions) -> list[Prediction]:
        arguments = options.thresholds, options.min_area_px, options.mm_per_pixel, options.return_probabilities
        return self._predictor.predict_batch(images, *arguments)

    def close(self) -> None:
        """Finish what is queued and free the model, unless it hangs."""
        seconds = self.settings.shutdown_timeout_s
        if self.batcher.close(seconds):
            self._predictor.close()
        else:
            LOG.error('the model has not answered for %g s; it is left to end with the process.', seconds)
        self._threads.shutdown()

    async def answer(self, request: Any, options: PredictOptions, images: set[str]) -> bytes:
        """Return the prediction of the image in a request, or raise :class:`RequestError`.

        It is the text of a JSON answer with the ``images`` asked for of ``mask``, ``scores`` and ``preview``, or, for
        ``mask_only``, the mask as PNG.
        """
        start = time.perf_counter()
        with self.limits.take_slot() as slot:
            image = await self._receive(request, slot, options)
            future = self.batcher.submit(image.pixels, options)
            slot.queued()
            prediction = await self._wait(request, future)
            content = await self._in_thread(self._encode, prediction, image, options, images, start)
            self.metrics.count_answer(prediction, time.perf_counter() - start)
            return content

    async def _receive(self, request: Any, slot: Slot, options: PredictOptions) -> DecodedImage:
        settings, length = self.settings, declared_length(request)
        longest = settings.max_body_bytes if length is None else min(length, settings.max_body_bytes)
        slot.hold(2 * longest)  # an upload lies twice in memory while it is read
        data = await read_upload(request, settings.max_body_bytes, settings.body_timeout_s)
        header = await self._in_thread(read_upload_header, data, settings.max_pixels)
        scores = 4 * len(self.info.classes) if options.return_probabilities else 0  # float32
        slot.hold(len(data) + header.pixels * (3 + 1 + scores))
        return await self._in_thread(decode_upload, data, settings.max_pixels)

    async def _wait(self, request: Any, future: Future) -> Prediction:
        """Wait for a prediction as long as the client waits for it."""
        result = asyncio.wrap_future(future)
        gone = asyncio.ensure_future(_disconnected(request))
        try:
            await asyncio.wait([result, gone], return_when=asyncio.FIRST_COMPLETED)
            if not result.done():
                raise RequestError('left', 'a client must wait for the answer, but this one left before.')
            return result.result()
        except RequestError:
            raise
        except TooManyRegions as err:
            raise RequestError('too_many_defects', str(err)) from err
        except Exception as err:  # whatever a model raises; the batcher keeps running
            LOG.error('the model failed on an image', exc_info=err)
            fact = 'but it failed on this image; the log of the server says why.'
            raise RequestError('failed', f'the model must answer, {fact}') from err
        finally:
            gone.cancel()
            result.cancel()  # takes the image out of the queue, unless its batch has begun

    async def _in_thread(self, function, *arguments):
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *arguments)

    def _encode(
        self, prediction: Prediction, image: DecodedImage, options: PredictOptions, images: set[str], start: float
    ) -> bytes:
        if 'mask_only' in images:
            return encode_label_png(prediction.label_map, self.info.palette)
        answer = make_answer(prediction, options, self.info, image.header.notes)
        if 'mask' in images:
            answer['mask_png'] = as_text(encode_label_png(prediction.label_map, self.info.palette))
        if 'scores' in images:
            answer['scores_png'] = as_text(encode_scores(prediction.probabilities))
        if 'preview' in images:
            answer['preview_jpeg'] = as_text(encode_preview(image.pixels))
        answer['seconds'] = round(time.perf_counter() - start, 6)
        return json.dumps(answer, ensure_ascii=False, allow_nan=False).encode()


async def _disconnected(request: Any) -> None:
    while (await request.receive())['type'] != 'http.disconnect':
        pass
