"""The server on loopback: throughput against offline batches, latency, and memory, with one model in one run.

Run from the root of the repository, with an exported file or without (then Fast-SCNN with random weights is exported)::

    python benchmarks/server.py --size 512 --threads 1 2

Offline is what the server's model does without a server: ``predict_batch`` on batches of eight decoded images, in a
process of its own. Server and offline take turns; the rate is of wall time, since server, decoder and client share the
cores with the model, as they would on a plant's machine. The clients run in this process, over connections that stay.
Processor time of an image, in the server's process and in the offline one, stands beside the rates: on a busy machine
it is the better comparison.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import common  # isort: skip  (sets the number of threads)

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
BATCH = 8
OFFLINE = """
import json, sys, time
import cv2, numpy as np
from mmdefect.deployment import load_predictor
from mmdefect.deployment.decoding import decode_image
cv2.setNumThreads(1)
predictor = load_predictor(sys.argv[1], threads=int(sys.argv[2]))
files = [open(name, 'rb').read() for name in sys.argv[3:]]
images = [decode_image(data).pixels for data in files]
predictor.predict_batch(images)
print('ready', flush=True)
for line in sys.stdin:
    seconds, decode = json.loads(line)
    start, cpu, count = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - start < seconds:
        predictor.predict_batch([decode_image(data).pixels for data in files] if decode else images)
        count += len(files)
    rate = count / (time.perf_counter() - start)
    print(json.dumps([rate, 1e3 * (time.process_time() - cpu) / count]), flush=True)
"""


def write_images(folder: Path, size: int) -> list[Path]:
    """Write a batch of images of the demo data as JPEG."""
    from mmdefect.demo.write import write_demo_dataset

    write_demo_dataset(folder / 'demo', ('wta',), 2 * BATCH, (size, size), 0, False)
    paths = []
    for k, path in enumerate(sorted((folder / 'demo').rglob('img_dir/*/*'))[:BATCH]):
        paths.append(folder / f'{k}.jpg')
        cv2.imwrite(str(paths[-1]), cv2.imread(str(path)), [cv2.IMWRITE_JPEG_QUALITY, 92])
    return paths


class Offline:
    """The model without a server, in a process that waits for its turns."""

    def __init__(self, model: Path, threads: int, images: list[Path]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, '-c', OFFLINE, str(model), str(threads), *map(str, images)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout.readline() == 'ready\n'

    def rate(self, seconds: float, decode: bool) -> tuple[float, float]:
        """Images per second, and milliseconds of processor time of an image."""
        self.process.stdin.write(json.dumps([seconds, decode]) + '\n')
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(30)


class Server:
    """``tools/serve.py`` on a free port."""

    def __init__(self, model: Path, threads: int) -> None:
        self.process = subprocess.Popen(
            [
                sys.executable,
                'tools/serve.py',
                str(model),
                '--port',
                '0',
                '--threads',
                str(threads),
                '--max-batch',
                str(BATCH),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, 'OMP_NUM_THREADS': '1'},
        )
        self.port = int(next(line for line in self.process.stdout if 'http://' in line).rsplit(':', 1)[1])

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection('127.0.0.1', self.port, timeout=60)

    def metric(self, name: str) -> float:
        connection = self.connect()
        connection.request('GET', '/metrics')
        lines = connection.getresponse().read().decode().splitlines()
        connection.close()
        return float(next(line for line in lines if line.startswith(name + ' ')).split()[1])

    def load(self, files: list[bytes], clients: int, seconds: float) -> tuple[float, list[float]]:
        """Images per second, and the seconds of each request, of clients that ask one after another."""
        times, lock, end = [], threading.Lock(), time.perf_counter() + seconds

        def ask(first: int) -> None:
            connection, own, k = self.connect(), [], first
            while time.perf_counter() < end:
                start = time.perf_counter()
                connection.request('POST', '/predict', files[k % len(files)], {'Content-Type': 'image/jpeg'})
                answer = connection.getresponse()
                answer.read()
                own.append(time.perf_counter() - start)
                if answer.status != 200:
                    raise RuntimeError(f'the server must answer with 200, got {answer.status}.')
                k += 1
            connection.close()
            with lock:
                times.extend(own)

        start = time.perf_counter()
        threads = [threading.Thread(target=ask, args=(k,)) for k in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return len(times) / (time.perf_counter() - start), times

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(60)


def measure(model: Path, threads: int, images: list[Path], rounds: int, seconds: float) -> list[dict[str, object]]:
    """Rows of one number of threads: concurrency 1 and 8."""
    files = [path.read_bytes() for path in images]
    offline, server = Offline(model, threads, images), Server(model, threads)
    try:
        server.load(files, BATCH, 1.0)
        memory = server.metric('process_resident_memory_bytes')
        rates: dict[str, list[float]] = {name: [] for name in ('offline', 'with_decoding', 'one', 'many')}
        processor: dict[str, list[float]] = {name: [] for name in rates}
        times: dict[str, list[float]] = {'one': [], 'many': []}
        batches = [server.metric('mmdefect_batch_images_sum'), server.metric('mmdefect_batch_images_count')]
        sizes = {}
        for _ in range(rounds):
            for name in ('offline', 'with_decoding'):
                rate, cpu = offline.rate(seconds, name == 'with_decoding')
                rates[name].append(rate)
                processor[name].append(cpu)
            for name, clients in (('many', BATCH), ('one', 1)):
                cpu = server.metric('process_cpu_seconds_total')
                rate, own = server.load(files, clients, seconds)
                rates[name].append(rate)
                processor[name].append(1e3 * (server.metric('process_cpu_seconds_total') - cpu) / len(own))
                times[name] += own
                after = [server.metric('mmdefect_batch_images_sum'), server.metric('mmdefect_batch_images_count')]
                sizes[name] = (after[0] - batches[0]) / (after[1] - batches[1])
                batches = after
        grown = server.metric('process_resident_memory_bytes') - memory
    finally:
        offline.close()
        server.close()
    middle = {name: statistics.median(values) for name, values in rates.items()}
    cpu_ms = {name: statistics.median(values) for name, values in processor.items()}
    return [
        {
            'model_threads': threads,
            'clients': clients,
            'images_per_s': middle[name],
            'offline_per_s': middle['offline'],
            'offline_with_decoding_per_s': middle['with_decoding'],
            'share_of_offline': middle[name] / middle['offline'],
            'cpu_ms': cpu_ms[name],
            'offline_cpu_ms': cpu_ms['offline'],
            'mean_batch': sizes[name],
            'requests': len(times[name]),
            'p50_ms': 1e3 * float(np.percentile(times[name], 50)),
            'p99_ms': 1e3 * float(np.percentile(times[name], 99)),
            'memory_mib': (memory + grown) / 2**20,
            'grown_mib': grown / 2**20,
        }
        for name, clients in (('one', 1), ('many', BATCH))
    ]


def export_default(folder: Path) -> Path:
    """Export Fast-SCNN of the demo with random weights: a benchmark asks how fast, not how well."""
    sys.path.insert(0, str(ROOT))
    from mmdefect.apis.inference import export
    from tests.helpers.deployment import write_checkpoint

    out = folder / 'fast-scnn.onnx'
    export(write_checkpoint(folder / 'checkpoint.pth'), out)
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--model', type=Path, help='exported file (default: Fast-SCNN with random weights)')
    parser.add_argument('--size', type=int, default=512, help='side of the images')
    parser.add_argument('--threads', type=int, nargs='+', default=[1, 2], help='of the model')
    parser.add_argument('--rounds', type=int, default=5)
    parser.add_argument('--seconds', type=float, default=2.5, help='of each contestant in a round')
    parser.add_argument('--out', type=Path, default=common.RESULTS, help='folder of the record')
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model = args.model or export_default(Path(folder))
        images = write_images(Path(folder), args.size)
        rows = [row for threads in args.threads for row in measure(model, threads, images, args.rounds, args.seconds)]
    print(common.format_table(rows))
    metadata = {
        'clock': 'wall time',
        'model': model.name,
        'size': args.size,
        **common.environment(['numpy', 'opencv-python', 'onnxruntime', 'fastapi', 'uvicorn']),
    }
    metadata['clock'] = 'wall time'
    print(common.write_record('server', rows, metadata, args.out))


if __name__ == '__main__':
    main()
