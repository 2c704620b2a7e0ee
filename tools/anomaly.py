"""Detect anomalies by how far an image lies from normal ones.

    python tools/anomaly.py run configs/cutpaste/resnet18_3way_64k_mvtec-256.py --data-root data/mvtec_ad \
        --categories all --localize fast --out work_dirs/mvtec
    python tools/anomaly.py fit configs/cutpaste/resnet18-l3_3way_256_mvtec-256.py --data-root data/mvtec_ad \
        --category screw --checkpoint work_dirs/screw/iter_256.pth --out screw.pth
    python tools/anomaly.py eval configs/cutpaste/resnet18-l3_3way_256_mvtec-256.py --data-root data/mvtec_ad \
        --categories all --checkpoint 'work_dirs/{category}/iter_256.pth' --out work_dirs/anomaly
    python tools/anomaly.py predict screw.pth photos/ --out predictions
    python tools/anomaly.py localize screw.pth photos/ --out labels
    python tools/anomaly.py explain screw.pth photos/ --layer layer3 --out cams
"""

from __future__ import annotations

import argparse
import sys

from mmdefect.command_line import add_config_options, one_line_errors
from mmdefect.experiments.engines import add_engine_options
from mmdefect.extras import stop_without

stop_without('mm')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest='command', required=True)
    fit = commands.add_parser('fit', help='fit a detector on good images and write it to one file')
    fit.add_argument('config', help='CutPaste config')
    fit.add_argument('--data-root', help='folder of categories, a category, or a folder of good images')
    fit.add_argument('--category', help='name of a category below it')
    fit.add_argument('--checkpoint', help='of the CutPaste training; without it the backbone stays untrained')
    fit.add_argument('--out', default='detector.pth', help='file to write (default: detector.pth)')
    test = commands.add_parser('eval', help='fit and test categories, the untrained backbone beside')
    test.add_argument('config', help='CutPaste config')
    test.add_argument('--data-root', required=True, help='folder of categories')
    test.add_argument('--categories', nargs='+', default=['all'], help='names, or all (default)')
    test.add_argument('--checkpoint', help="of each training, such as 'work_dirs/{category}/iter_256.pth'")
    test.add_argument('--out', default='work_dirs/anomaly', help='folder for tables, figures, page and detectors')
    test.add_argument('--layer', help='also show the Grad-CAM of this layer')
    test.add_argument('--no-report', action='store_true', help='tables only')
    batch = commands.add_parser('run', help='train, test, export and predict categories; run again to go on')
    batch.add_argument('config', help='CutPaste config')
    batch.add_argument('--data-root', required=True, help='folder of categories')
    batch.add_argument('--categories', nargs='+', default=['all'], help='names, or all (default)')
    batch.add_argument('--out', default='work_dirs/anomaly', help='folder of the batch, its table and its detectors')
    batch.add_argument(
        '--iters',
        type=int,
        help='updates of each training; more than before: it goes on (default: those of the config)',
    )
    batch.add_argument('--gpu-count', type=int, default=0, help='devices of a training; 0 (default): CPU')
    batch.add_argument('--layer', help='also show the Grad-CAM of this layer')
    batch.add_argument('--no-report', action='store_true', help='tables only')
    add_engine_options(batch)
    for command in (fit, test, batch):
        command.add_argument(
            '--division', help='of VisA as downloaded: 1cls (default), 2cls_highshot, ... or a CSV file'
        )
        command.add_argument(
            '--encoder', metavar='NAME', help='another backbone: any model name of torchvision, timm or mmpretrain'
        )
        command.add_argument(
            '--encoder-weights', choices=['imagenet', 'none'], default='imagenet', help='that it starts from'
        )
        command.add_argument('--density', choices=['ledoit_wolf', 'full', 'kde', 'bank'], default='ledoit_wolf')
        command.add_argument('--bandwidth', type=float, help='of kde (default: from the data)')
        command.add_argument('--points', type=int, default=4096, help='kept by kde and bank (default: 4096)')
        command.add_argument(
            '--turns',
            type=int,
            choices=[1, 2, 4],
            default=1,
            help='of the image, for parts at any angle: fitted on and averaged over (default: 1, as it is)',
        )
        command.add_argument(
            '--layers', nargs='+', default=[], help='parts of the backbone to read (default: its output)'
        )
        command.add_argument('--no-normalize', action='store_true', help='keep the length of embeddings')
        command.add_argument('--localize', choices=['fast', 'exact'], help='also fit heat maps')
        command.add_argument(
            '--score',
            choices=['image', 'heat'],
            default='image',
            help='distance of the pooled image, or maximum of the heat map',
        )
        command.add_argument('--patch', type=int, default=32, help='side of a patch in pixels (default: 32)')
        command.add_argument('--stride', type=int, default=4, help='of exact patches in pixels (default: 4)')
        command.add_argument('--threshold', type=float, default=1.0, help='1 is the farthest held-out normal image')
        command.add_argument('--folds', type=int, default=5, help='each held out once for the scale (default: 5)')
        command.add_argument('--seed', type=int, default=0)
        add_config_options(command)
    for name, text in (
        ('predict', 'score, decision and heat map of files or folders'),
        ('localize', 'heat maps and label maps for segmentation training'),
        ('explain', 'Grad-CAM of a layer'),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument('model', help='file of a fitted detector')
        command.add_argument('inputs', nargs='+', help='image files or folders')
        command.add_argument('--out', default=name, help=f'folder (default: {name})')
        if name == 'explain':
            command.add_argument('--layer', required=True, help='part of the backbone, such as layer3')
            continue
        command.add_argument('--mode', choices=['fast', 'exact'], help='of heat maps (default: what was fitted)')
        if name == 'predict':
            command.add_argument('--threshold', type=float, help="in place of the detector's own")
        else:
            command.add_argument('--threshold', type=float, help="of a pixel, in place of the detector's own")
            command.add_argument('--no-labels', action='store_true', help='heat maps only')
    for command in (test, batch, commands.choices['predict'], commands.choices['localize']):
        command.add_argument('--precision', choices=['fp32', 'bf16', 'fp16'], default='fp32')
    return parser.parse_args()


def fit_arguments(args: argparse.Namespace) -> dict:
    settings = dict(
        density=args.density,
        layers=tuple(args.layers),
        normalize=not args.no_normalize,
        score=args.score,
        patch=args.patch,
        stride=args.stride,
        turns=args.turns,
    )
    return dict(
        settings=settings,
        localize=args.localize,
        threshold=args.threshold,
        folds=args.folds,
        seed=args.seed,
        bandwidth=args.bandwidth,
        max_points=args.points,
    )


def config_arguments(args: argparse.Namespace) -> dict:
    """Return what a config is loaded with: an encoder by name is its backbone."""
    options = dict(args.cfg_options or {})
    if (chosen := encoder(args)) is not None:
        options['model.backbone'] = dict(chosen, _delete_=True)
    return dict(cfg_options=options, recipes=args.recipes, division=args.division)


def encoder(args: argparse.Namespace) -> dict | None:
    if args.encoder is None:
        return None
    import mmdefect.registration  # noqa: F401
    from mmdefect.models.cutpaste_classifier import encoder_config

    return encoder_config(args.encoder, args.encoder_weights == 'imagenet')


def say(line: str) -> None:
    print(line, flush=True)


def run_batch(args: argparse.Namespace) -> None:
    from mmdefect.apis.anomaly_eval import table_text
    from mmdefect.apis.anomaly_run import run_anomaly
    from mmdefect.experiments.engines import Slots, engine_of
    from mmdefect.experiments.process import stop_signals

    engine = engine_of(args, args.gpu_count)
    fit = fit_arguments(args)
    with stop_signals():
        rows = run_anomaly(
            args.config,
            args.data_root,
            args.out,
            args.categories,
            args.division,
            encoder(args),
            args.iters,
            dict(fit, layer=args.layer, precision=args.precision, report=not args.no_report),
            [f'{key}={value}'.replace(' ', '') for key, value in (args.cfg_options or {}).items()],
            args.recipes,
            args.gpu_count,
            None if engine == Slots() else engine,
            say,
        )
    print(table_text(rows))
    print(args.out)


def run(args: argparse.Namespace) -> None:
    from mmdefect.apis import anomaly
    from mmdefect.apis.anomaly_eval import table_text

    if args.command == 'fit':
        detector = anomaly.fit_anomaly(
            args.config, args.data_root, args.category, args.checkpoint, **config_arguments(args), **fit_arguments(args)
        )
        detector.save(args.out)
        scale = detector.scales['score']
        print(
            f'{args.out}: {detector.settings.facts["normal_images"]} normal images, distances of held-out ones '
            f'{scale.minimum:.3f} to {scale.maximum:.3f}, threshold {scale.threshold:g}'
        )
    elif args.command == 'run':
        run_batch(args)
    elif args.command == 'eval':
        rows = anomaly.evaluate_anomaly(
            args.config,
            args.data_root,
            args.categories,
            args.out,
            args.checkpoint,
            args.layer,
            args.precision,
            not args.no_report,
            **config_arguments(args),
            **fit_arguments(args),
        )
        print(table_text(rows))
        print(args.out)
    elif args.command == 'predict':
        rows = anomaly.predict_anomaly(args.model, args.inputs, args.out, args.mode, args.precision, args.threshold)
        print(f'{sum(row["anomaly"] for row in rows)} of {len(rows)} images are anomalies: {args.out}/predictions.csv')
    elif args.command == 'localize':
        rows = anomaly.localize_anomaly(
            args.model, args.inputs, args.out, args.mode, args.precision, args.threshold, not args.no_labels
        )
        print(f'{sum(row["defect_pixels"] > 0 for row in rows)} of {len(rows)} images have defect pixels: {args.out}')
    else:
        print('\n'.join(anomaly.explain_anomaly(args.model, args.inputs, args.layer, args.out)))


@one_line_errors(ValueError, OSError, RuntimeError, ModuleNotFoundError)
def main() -> int:
    args = parse_args()
    run(args)
    return 0


if __name__ == '__main__':
    sys.exit(main())
