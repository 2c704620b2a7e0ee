"""What the test of two processes runs in each of them: ``python -m tests.engine.loops.ranks FOLDER DATA``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from mmengine.runner import Runner

from mmdefect.ranks import end_rank, leave_group
from tests.helpers.bilevel import leaves_of, tiny_config


def train(root: Path, work_dir: Path, launcher: str, batch_size: int) -> dict:
    """Train four steps with two outer ones and without batch norm; return policy, weights and outer losses."""
    cfg = tiny_config(
        root,
        work_dir,
        4,
        estimator=dict(name='neumann', terms=2, products='exact'),
        curvature_share=1.0,
        policy=dict(learn=('weights', 'location'), location=dict(type='maps', num_classes=2, size=4)),
        outer=dict(batch_size=batch_size),
        rates=dict(default=1e-3),
    )
    cfg.launcher, cfg.env_cfg = launcher, dict(dist_cfg=dict(backend='gloo'))
    cfg.train_dataloader.batch_size = batch_size
    for loader in (cfg.train_dataloader, cfg.train_cfg.outer_dataloader):
        loader.sampler = dict(type='DefectSampler', seed=3)
    for part in (cfg.model.backbone, cfg.model.decode_head, cfg.model.auxiliary_head):
        part.norm_cfg = dict(type='GN', num_groups=2)
    cfg.model.decode_head.dropout_ratio = cfg.model.auxiliary_head.dropout_ratio = 0
    runner = Runner.from_cfg(cfg)
    runner.train()
    model = getattr(runner.model, 'module', runner.model)
    return dict(
        policy=leaves_of(runner.train_loop).tolist(),
        outer=[h['outer_loss'] for h in runner.train_loop.history],
        weights={k: v.flatten()[:20].tolist() for k, v in model.state_dict().items()},
    )


def main() -> None:
    folder, root = Path(sys.argv[1]), Path(sys.argv[2])
    found = train(root, folder / 'run', 'pytorch', 2)
    (folder / f'rank{os.environ["RANK"]}.json').write_text(json.dumps(found))
    leave_group()
    end_rank(0)


if __name__ == '__main__':
    main()
