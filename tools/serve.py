"""Serve a model over HTTP: POST /predict, a page for people at /, /healthz, /metrics and /docs.

python tools/serve.py work_dirs/model.onnx
python tools/serve.py work_dirs/model.onnx --host 0.0.0.0 --token-file token.txt
curl -F image=@part.png 'http://127.0.0.1:8000/predict?threshold=0.4'
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mmdefect.command_line import one_line_errors
from mmdefect.deployment import load_predictor
from mmdefect.deployment.server.run import serve
from mmdefect.deployment.server.settings import ServerSettings
from mmdefect.deployment.tiling import SizedPredictor

TOKEN_VARIABLE = 'MMDEFECT_TOKEN'


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    default = ServerSettings()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('model', help='an exported .onnx file, or a checkpoint')
    parser.add_argument('--config', help='config of a checkpoint, unless one lies beside it')
    parser.add_argument('--device', help='of a checkpoint: cpu, cuda:0, ...')
    parser.add_argument('--threads', type=int, help='of an exported model (default: all that the process may use)')
    parser.add_argument(
        '--tile',
        type=int,
        default=2048,
        metavar='SIDE',
        help='larger images are predicted in tiles of this side, so that memory stays bounded, unless '
        'the model resizes them by itself; 0: never (default: 2048)',
    )
    parser.add_argument('--host', default=default.host, help=f'address to listen on (default: {default.host})')
    parser.add_argument('--port', type=int, default=default.port, help=f'0: any free one (default: {default.port})')
    parser.add_argument(
        '--token-file',
        type=Path,
        help='file with the token that clients must send; otherwise that of '
        f'the environment variable {TOKEN_VARIABLE}, otherwise none',
    )
    parser.add_argument(
        '--allowed-host',
        action='append',
        default=[],
        metavar='NAME',
        help='name by which clients may address the server; may be given several times',
    )
    limits = parser.add_argument_group('limits')
    limits.add_argument('--max-body-mb', type=float, default=default.max_body_bytes / 2**20, metavar='MIB')
    limits.add_argument('--max-megapixels', type=float, default=default.max_pixels / 1e6)
    limits.add_argument(
        '--memory-mb',
        type=float,
        default=default.memory_bytes / 2**20,
        metavar='MIB',
        help='of all requests together, by estimate, without the model',
    )
    limits.add_argument(
        '--max-regions',
        type=int,
        default=20_000,
        help='of one image, before small ones are dropped; more are an error (default: 20000)',
    )
    limits.add_argument(
        '--queue', type=int, default=default.queue_size, help='requests accepted and not yet answered; more get 503'
    )
    limits.add_argument('--body-timeout', type=float, default=default.body_timeout_s, metavar='SECONDS')
    limits.add_argument(
        '--shutdown-timeout',
        type=float,
        default=default.shutdown_timeout_s,
        metavar='SECONDS',
        help='time for accepted requests after a signal to stop',
    )
    batches = parser.add_argument_group('batches')
    batches.add_argument('--max-batch', type=int, default=default.max_batch, help='images that the model gets at once')
    batches.add_argument(
        '--max-delay-ms', type=float, default=1e3 * default.max_delay_s, help='longest wait for others to share a batch'
    )
    batches.add_argument('--decode-threads', type=int, default=default.decode_threads)
    parser.add_argument('--access-log', action='store_true', help='log a line per request')
    return parser.parse_args(argv)


def read_token(file: Path | None) -> str | None:
    if file is None:
        return os.environ.get(TOKEN_VARIABLE) or None
    return file.read_text(encoding='utf-8').strip()


def make_settings(args: argparse.Namespace) -> ServerSettings:
    return ServerSettings(
        host=args.host,
        port=args.port,
        max_body_bytes=int(args.max_body_mb * 2**20),
        max_pixels=int(args.max_megapixels * 1e6),
        memory_bytes=int(args.memory_mb * 2**20),
        queue_size=args.queue,
        max_batch=args.max_batch,
        max_delay_s=args.max_delay_ms / 1e3,
        decode_threads=args.decode_threads,
        body_timeout_s=args.body_timeout,
        shutdown_timeout_s=args.shutdown_timeout,
        token=read_token(args.token_file),
        allowed_hosts=tuple(args.allowed_host),
    )


@one_line_errors(ImportError, OSError, ValueError)
def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    logging.basicConfig(format='%(levelname)s: %(message)s')
    settings = make_settings(args)
    options = {name: getattr(args, name) for name in ('config', 'device', 'threads') if getattr(args, name) is not None}
    tile_hw = (args.tile, args.tile) if args.tile else None
    predictor = SizedPredictor(load_predictor(args.model, **options), tile_hw, args.max_regions)
    name = predictor.info.name or Path(args.model).name
    serve(predictor, settings, lambda url: print(f'serving {name} at {url}', flush=True), args.access_log)
    return 0


if __name__ == '__main__':
    sys.exit(main())
