"""What the test of two processes runs in each: ``python -m tests.integration.normality_ranks FOLDER DATA``."""

import json
import os
import sys
from pathlib import Path

from mmdefect.apis import train
from mmdefect.engine.hooks.model_hooks import unwrapped
from mmdefect.ranks import end_rank
from tests.integration.test_normality_training import LEAF, QUICK, digest_of_memories

if __name__ == '__main__':
    folder, root = Path(sys.argv[1]), sys.argv[2]
    rank = os.environ['RANK']
    options = {**QUICK, 'data_root': root, 'normality.interval': 2}
    runner = train(LEAF, work_dir=folder / 'run', cfg_options=options, recipes=['bank'], launcher='pytorch')
    neck = unwrapped(runner).neck
    projection = float(sum(p.detach().double().abs().sum() for p in neck.projections.parameters()))
    record = dict(memories=digest_of_memories(neck), used=neck.used, projection=projection)
    (folder / f'rank{rank}.json').write_text(json.dumps(record))
    end_rank(0)
