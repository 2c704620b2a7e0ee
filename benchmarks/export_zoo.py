"""Try to export every model of the zoo and write docs/results/export.md.

``python benchmarks/export_zoo.py`` builds each model with random weights (batch norms and scores filled so that all
classes occur), exports it in each way, runs the file and compares with the PyTorch predictor on images and sizes that
the exporter did not see. Every model runs in a process of its own; results are kept per model, so it goes on where it
was stopped; ``--fresh`` starts over.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

RESULTS = ROOT / 'benchmarks' / 'results' / 'export.json'
TABLE = ROOT / 'docs' / 'results' / 'export.md'
#: Column, form, what is dynamic.
WAYS = (
    ('onnx static', 'onnx', 'none'),
    ('onnx batch', 'onnx', 'batch'),
    ('onnx size', 'onnx', 'size'),
    ('TorchScript', 'torchscript', 'batch'),
    ('torch.export', 'program', 'batch'),
)
SIZE = 64


def models() -> dict[str, Path]:
    """Return the leaf of each model of the zoo."""
    return {p.stem.split('_')[0]: p for p in sorted((ROOT / 'configs').glob('[!_]*/*_baseline_40k_wta-256.py'))}


def try_model(leaf: Path, ways: list[str]) -> dict:
    """Export one model in each way; return what came out."""
    from mmdefect.apis.inference import open_checkpoint
    from mmdefect.deployment import load_predictor
    from mmdefect.inference.export import compare_predictors, export_model
    from mmdefect.inference.predictor import SavedPredictor
    from tests.helpers.deployment import make_images, write_checkpoint

    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        # images of twice the size of the network: the resize is part of what is compared
        checkpoint = write_checkpoint(
            Path(scratch) / 'iter_7.pth', leaf, {'crop_size': (SIZE, SIZE), 'image_scale': (SIZE, SIZE)}
        )
        predictor = open_checkpoint(checkpoint)
        results['parameters_m'] = sum(p.numel() for p in predictor.network.parameters()) / 1e6
        for name, form, dynamic in WAYS:
            if name not in ways:
                continue
            path = Path(scratch) / f'model_{dynamic}.{ {"onnx": "onnx", "torchscript": "pt", "program": "pt2"}[form] }'
            shapes = {
                'none': [(2, 2 * SIZE, 2 * SIZE)],
                'batch': [(1, 2 * SIZE, 2 * SIZE), (3, 2 * SIZE, 2 * SIZE)],
                'size': [(1, 2 * SIZE, 2 * SIZE), (3, SIZE, 2 * SIZE), (2, 2 * SIZE, SIZE)],
            }[dynamic]
            start = time.perf_counter()
            try:
                export_model(predictor.network, predictor.info, path, form, dynamic, (2 * SIZE, 2 * SIZE), 2)
                exported = load_predictor(path) if form == 'onnx' else SavedPredictor(path)
                parity = compare_predictors(predictor, exported, [make_images(*s, seed=s[1]) for s in shapes])
                results[name] = dict(
                    difference=parity.difference,
                    agreement=parity.agreement,
                    holds=parity.holds,
                    mib=path.stat().st_size / 2**20,
                    seconds=time.perf_counter() - start,
                )
            except Exception as err:  # a cell that failed keeps its reason
                text = ' '.join(str(err).replace(f'{scratch}/', '').split()).removeprefix(f'{predictor.info.name} ')
                refused = refusal(predictor, [make_images(*s, seed=s[1]) for s in shapes])
                if refused:
                    text = f'the model itself, in PyTorch, takes no such images ({refused})'
                results[name] = dict(error=f'{type(err).__name__}: {text}'[:400])
    return results


def refusal(predictor, batches: list) -> str:
    """Return why the checkpoint itself does not take these images; empty if it does."""
    try:
        for images in batches:
            predictor.infer(images, predictor.info.thresholds)
    except RuntimeError as err:
        return ' '.join(str(err).split())
    return ''


def run_apart(name: str, ways: list[str], seconds: int) -> dict:
    """Try a model in a process of its own."""
    command = [sys.executable, __file__, '--one', name, '--ways', *ways]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        return {way: dict(error=f'not done in {seconds} s') for way in ways}
    lines = [line for line in done.stdout.splitlines() if line.startswith('RESULT ')]
    if not lines:
        return {
            way: dict(error=f'the process ended with {done.returncode}: {done.stderr.strip()[-200:]}') for way in ways
        }
    return json.loads(lines[-1].removeprefix('RESULT '))


def cell(result: dict | None) -> str:
    """Return the text of one cell."""
    if result is None:
        return ''
    if 'error' in result:
        return 'no'
    return ('yes' if result['holds'] else 'differs') + f' ({result["difference"]:.0e})'


def write_table(record: dict) -> None:
    """Write the page from the record."""
    meta, results = record['metadata'], record['results']
    lines = [
        '# What exports',
        '',
        'Every model of the zoo, random weights, network input '
        f'{SIZE} x {SIZE}, images of {2 * SIZE} x {2 * SIZE} (also half as high or half as wide where the '
        'size is dynamic), compared with the PyTorch predictor: "yes" where probabilities differ by at most 1e-4 and '
        '99.99 % of the labels are equal, with the largest difference.',
        '',
        f'`{meta["command"]}`, commit {meta["commit"]}, torch {meta["torch"]}, onnx '
        f'{meta["onnx"]}, onnxruntime {meta["onnxruntime"]}',
        '',
    ]
    columns = ['model', 'parameters, M', *(name for name, _, _ in WAYS)]
    lines += ['| ' + ' | '.join(columns) + ' |', '|' + '---|' * len(columns)]
    for name, row in sorted(results.items()):
        lines.append(
            f'| {name} | {row.get("parameters_m", float("nan")):.1f} | '
            + ' | '.join(cell(row.get(way)) for way, _, _ in WAYS)
            + ' |'
        )
    failed = [
        (name, way, row[way])
        for name, row in sorted(results.items())
        for way, _, _ in WAYS
        if way in row and ('error' in row[way] or not row[way]['holds'])
    ]
    lines += [
        '',
        f'{sum(len([w for w, _, _ in WAYS if w in r]) for r in results.values()) - len(failed)} cells hold, '
        f'{len(failed)} do not:'
        if failed
        else 'All cells hold.',
        '',
    ]
    for name, way, row in failed:
        reason = (
            row.get('error')
            or f'largest difference {row["difference"]:.2g}, {100 * row["agreement"]:.3f} % equal labels'
        )
        lines.append(f'- {name}, {way}: {reason.replace("|", "/")}')
    untried = sorted(set(models()) - set(results))
    if untried:
        lines += ['', f'Not tried yet: {", ".join(untried)}.']
    lines += [
        '',
        'An empty cell has not been tried. "onnx static" fixes batch and size, "onnx batch" the size, "onnx size" '
        'nothing. A trace (TorchScript) and torch.export keep the size and leave the batch open. Static and dynamic '
        'files hold the resize, the softmax and the decision.',
        '',
    ]
    TABLE.write_text('\n'.join(lines), encoding='utf-8')


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--models', nargs='+', help='some models only')
    parser.add_argument('--ways', nargs='+', default=[w[0] for w in WAYS], choices=[w[0] for w in WAYS])
    parser.add_argument('--fresh', action='store_true', help='try again what is known already')
    parser.add_argument('--seconds', type=int, default=600, help='limit of a model (default: 600)')
    parser.add_argument('--together', action='store_true', help='all in this process: quicker, but a crash ends it')
    parser.add_argument('--one', help=argparse.SUPPRESS)
    args = parser.parse_args()
    known = models()
    if args.one:
        print('RESULT ' + json.dumps(try_model(known[args.one], args.ways)))
        return 0
    import onnx
    import onnxruntime
    import torch

    record = json.loads(RESULTS.read_text()) if RESULTS.is_file() else dict(results={})
    commit = subprocess.run(
        ['git', 'rev-parse', '--short', 'HEAD'], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()
    record['metadata'] = dict(
        command='python benchmarks/export_zoo.py',
        commit=commit,
        torch=torch.__version__,
        onnx=onnx.__version__,
        onnxruntime=onnxruntime.__version__,
    )
    chosen = args.models or list(known)
    for number, name in enumerate(chosen, 1):
        row = record['results'].setdefault(name, {})
        ways = [w for w in args.ways if args.fresh or w not in row]
        if ways:
            start = time.perf_counter()
            row.update(try_model(known[name], ways) if args.together else run_apart(name, ways, args.seconds))
            RESULTS.write_text(json.dumps(record, indent=1, sort_keys=True) + '\n', encoding='utf-8')
            write_table(record)
            print(
                f'[{number}/{len(chosen)}] {name}: '
                + ', '.join(f'{w} {cell(row.get(w))}' for w in ways)
                + f' ({time.perf_counter() - start:.0f} s)',
                flush=True,
            )
    write_table(record)
    return 0


if __name__ == '__main__':
    sys.exit(main())
