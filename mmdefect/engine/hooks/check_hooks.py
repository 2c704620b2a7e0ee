"""Stop before the first iteration what would only fail, or go wrong unnoticed, much later."""

import difflib
import itertools

from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import Runner

from mmdefect.engine.hooks.model_hooks import unwrapped
from mmdefect.registry import DATASETS, HOOKS


@HOOKS.register_module()
class ClassCheckHook(Hook):
    """Compare the heads' ``num_classes`` and the checkpoint's class names with those of the data set."""

    def before_train(self, runner: Runner) -> None:
        """Check the heads against the training set."""
        _check_heads(runner, runner.train_dataloader.dataset.metainfo['classes'])

    def before_test(self, runner: Runner) -> None:
        """Check the heads against the test set."""
        _check_heads(runner, runner.test_dataloader.dataset.metainfo['classes'])

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check the classes stored in a checkpoint before its weights are used."""
        stored = (checkpoint.get('meta') or {}).get('dataset_meta') or {}
        if not stored.get('classes'):
            return  # a backbone or a checkpoint of another tool: it promises nothing
        loader = runner._train_dataloader or runner._test_dataloader or runner._val_dataloader
        present = classes_of(loader['dataset'] if isinstance(loader, dict) else loader.dataset)
        if present is not None and list(stored['classes']) != list(present):
            raise ValueError(
                f'the checkpoint must have been trained on the classes {list(present)}, but '
                f'{runner._load_from or "the resumed one"} has {list(stored["classes"])}; use the config it was '
                'trained with, or load only its backbone through `init_cfg`.'
            )


def _check_heads(runner: Runner, classes: list[str]) -> None:
    model = unwrapped(runner)
    model = getattr(model, 'module', model)  # the model inside test-time augmentation
    for name, module in model.named_modules():
        count = getattr(module, 'num_classes', None)
        is_head = 'head' in name and '.' not in name.replace('auxiliary_head.', '')
        if is_head and count is not None and count != len(classes):
            raise ValueError(
                f'`num_classes` of {name} must be {len(classes)} for the classes {list(classes)}, got {count}; state '
                '`num_classes` in the data set base and load the config through `mmdefect.apis.load_config` '
                '(tools/train.py does), or set it in every head.'
            )


def classes_of(dataset) -> list[str] | None:
    """Return the class names of a built data set or of its config, without reading its files."""
    if hasattr(dataset, 'metainfo'):
        return dataset.metainfo.get('classes')
    if 'datasets' in dataset or 'dataset' in dataset:  # a wrapper; its parts have the same classes
        return classes_of(dataset['datasets'][0] if 'datasets' in dataset else dataset['dataset'])
    return DATASETS.build({**dataset, 'lazy_init': True, 'pipeline': []}).metainfo.get('classes')


@HOOKS.register_module()
class SelectionCheckHook(Hook):
    """Compare ``save_best`` with the keys of the validation; mmengine would notice at the end of the first one."""

    def before_train(self, runner: Runner) -> None:
        """Check every key of every checkpoint hook."""
        metrics = runner.val_loop.evaluator.metrics if runner.val_loop is not None else []
        if not all(hasattr(metric, 'keys') for metric in metrics):
            return  # a metric of another package does not say what it will report
        known = list(itertools.chain.from_iterable(metric.keys() for metric in metrics))
        hooks = [hook for hook in runner.hooks if isinstance(hook, CheckpointHook)]
        for key in [key for hook in hooks for key in hook.save_best or ()]:
            if key != 'auto' and key not in known:
                near = difflib.get_close_matches(key, known, n=4, cutoff=0.4)
                raise ValueError(
                    f'`save_best` must be a key of the validation, got {key!r}; near ones are {near}. '
                    f'All {len(known)}: {", ".join(known)}. More come with other '
                    '`groups` or `calibration="fit"` of the DefectMetric in `val_evaluator`.'
                )
