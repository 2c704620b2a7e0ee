"""Stands in for tools/train.py: leaves the same files in milliseconds, without torch.

The config is a Python file with some of: max_iters, interval (checkpoint and validation), miou (dict or function of
the iteration), seconds (a step takes), crash_at, kill_at, skip_validation_at (first attempt only).
Each checkpoint lists the process that trained each iteration, so a test sees whether a resumed run has gaps.
"""

import argparse
import datetime
import json
import os
import signal
import sys
import time
import zipfile
from pathlib import Path


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('config')
    parser.add_argument('--work-dir', type=Path, required=True)
    parser.add_argument('--resume', action='store_true')
    parser.add_argument('--launcher', default='none')
    parser.add_argument('--with', dest='recipes', nargs='+', default=[])
    parser.add_argument('--cfg-options', nargs='+', default=[])
    args = parser.parse_args()
    cfg = {'max_iters': 6, 'interval': 2, 'seconds': 0.0}
    for file in (args.config, *args.recipes):
        exec(Path(file).read_text(), cfg)
    cfg.update({key: int(value) for key, value in (option.split('=') for option in args.cfg_options)})
    work_dir = args.work_dir
    work_dir.mkdir(parents=True, exist_ok=True)
    first = not list(work_dir.glob('*/vis_data'))
    (work_dir / Path(args.config).name).write_text(
        f"train_cfg = dict(\n    max_iters={cfg['max_iters']}, type='IterBasedTrainLoop', "
        f'val_interval={cfg["interval"]})\n'
    )
    log = work_dir / datetime.datetime.now().strftime('%Y%m%d_%H%M%S_%f') / 'vis_data' / 'scalars.json'
    log.parent.mkdir(parents=True, exist_ok=True)
    start, trained_by = 0, []
    if args.resume:
        path = Path((work_dir / 'last_checkpoint').read_text().strip())
        trained_by = json.loads(zipfile.ZipFile(path).read('trained_by'))
        start = len(trained_by)
        print('resumed from', start)
    print('devices', repr(os.environ.get('CUDA_VISIBLE_DEVICES')), 'launcher', args.launcher)

    def record(**values):
        with log.open('a') as file:
            file.write(json.dumps(values) + '\n')

    for step in range(start + 1, cfg['max_iters'] + 1):
        time.sleep(cfg['seconds'])
        if step == cfg.get('crash_at'):
            raise RuntimeError(f'loss is NaN at iteration {step}')
        if first and step == cfg.get('kill_at'):
            os.kill(os.getpid(), signal.SIGKILL)
        trained_by.append(os.getpid())
        record(lr=0.1, loss=1.0 / step, iter=step, step=step)
        print(f'Iter(train) [{step}/{cfg["max_iters"]}]')
        if step % cfg['interval'] and step != cfg['max_iters']:
            continue
        name = f'iter_{step}.pth'
        with zipfile.ZipFile(work_dir / name, 'w') as file:
            file.writestr('trained_by', json.dumps(trained_by))
        (work_dir / 'last_checkpoint').write_text(str(work_dir / name))
        if first and step == cfg.get('skip_validation_at'):
            sys.exit('error: stopped between checkpoint and validation')
        miou = cfg['miou'](step) if 'miou' in cfg else 40.0 + step
        record(aAcc=99.0, mIoU=miou, mAcc=miou + 1, time=0.1, data_time=0.1, step=step)


main()
