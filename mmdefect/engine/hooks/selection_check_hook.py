"""Stop before the first iteration when the checkpoint is to be chosen by a metric that no validation will report."""

from __future__ import annotations

import difflib

from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner

from mmdefect.registry import HOOKS


@HOOKS.register_module()
class SelectionCheckHook(Hook):
    """Compare ``save_best`` with the keys of the validation; mmengine would notice at the end of the first one."""

    def before_train(self, runner: Runner) -> None:
        """Check every key of every checkpoint hook."""
        metrics = runner.val_loop.evaluator.metrics if runner.val_loop is not None else []
        if not all(hasattr(metric, 'keys') for metric in metrics):
            return  # a metric of another package does not say what it will report
        known = [key for metric in metrics for key in metric.keys()]
        for hook in runner.hooks:
            if isinstance(hook, CheckpointHook):
                for key in hook.save_best or ():
                    if key != 'auto' and key not in known:
                        near = difflib.get_close_matches(key, known, n=4, cutoff=0.4)
                        raise ValueError(
                            f'`save_best` must be a key of the validation, got {key!r}; near ones are {near}. '
                            f'All {len(known)}: {", ".join(known)}. More come with other `groups` or '
                            '`calibration="fit"` of the DefectMetric in `val_evaluator`.'
                        )
