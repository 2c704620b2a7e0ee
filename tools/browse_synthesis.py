"""Draw the synthetic defects of a config: background, defect, result, outline and difference; or a page of sliders.

python tools/browse_synthesis.py configs/fast_scnn/fast-scnn_paste-poisson_demo.py --out sheet.png
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from mmdefect.command_line import add_config_options, one_line_errors
from mmdefect.extras import stop_without

stop_without('mm')

import cv2

from mmdefect.visualization.grid import COLUMNS, defect_row, image_grid, legend


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='leaf config with a synthesis recipe')
    parser.add_argument(
        '--out', type=Path, default=Path('synthesis.png'), help='sheet to write (default: synthesis.png)'
    )
    parser.add_argument('--count', type=int, default=10, help='defects to draw (default: 10)')
    parser.add_argument('--side', type=int, default=200, help='pixels of a cell (default: 200)')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--page', type=Path, help='also write a page with one slider for each operation')
    parser.add_argument('--save-instances', type=Path, metavar='JSON', help='also write the records of the defects')
    add_config_options(parser)
    args = parser.parse_args()
    if args.count < 1 or args.side < 32:
        parser.error('--count must be at least 1 and --side at least 32')
    return args


@one_line_errors(ValueError, OSError)
def main() -> int:
    args = parse_args()
    from mmdefect.apis import load_config
    from mmdefect.apis.synthesize import make_samples, synthesis_step

    cfg = load_config(args.config, args.cfg_options, args.recipes)
    dataset, step = synthesis_step(cfg)
    classes, palette = list(dataset.metainfo['classes']), [tuple(c) for c in dataset.metainfo['palette']]
    rows, captions, records = [], [], []
    for sample in make_samples(dataset, step, args.count, args.seed):
        name = Path(sample.img_path).name
        records.append(dict(img_path=sample.img_path, instances=sample.instances, skipped=sample.skipped))
        for instance, donor in zip(sample.instances, sample.donors, strict=True):
            rows.append(
                defect_row(sample.before, sample.after, sample.label, donor, instance['box_xyxy'], palette, args.side)
            )
            captions.append(
                [
                    name,
                    Path(instance['source']).name,
                    f'{instance["generator"]}, {instance["blend"]}',
                    f'{classes[instance["class_index"]]}, {instance["area"]} px',
                    '',
                ]
            )
        if len(rows) >= args.count:
            break
    rows, captions = rows[: args.count], captions[: args.count]
    sheet = image_grid(
        rows,
        column_titles=COLUMNS,
        captions=captions,
        title=Path(cfg.filename).stem,
        footer=legend(classes[1:], palette[1:]),
    )
    _write(args.out, sheet)
    if args.save_instances:
        args.save_instances.parent.mkdir(parents=True, exist_ok=True)
        args.save_instances.write_text(json.dumps(records, indent=1), encoding='utf-8')
    if args.page:
        from mmdefect.apis.slider_page import slider_page

        args.page.parent.mkdir(parents=True, exist_ok=True)
        args.page.write_text(slider_page(dataset, step, args.seed), encoding='utf-8')
    for path in (args.out, args.page, args.save_instances):
        if path:
            print(path)
    return 0


def _write(path: Path, sheet) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    options = [cv2.IMWRITE_JPEG_QUALITY, 88] if path.suffix.lower() in ('.jpg', '.jpeg') else []
    if not cv2.imwrite(str(path), sheet[..., ::-1], options):
        raise OSError(f'{path} must be an image that can be written; choose another name or folder.')


if __name__ == '__main__':
    sys.exit(main())
