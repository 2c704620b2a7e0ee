"""Stop before the first iteration when model, data set and checkpoint do not speak of the same classes."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mmdefect.registry import HOOKS


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
        dataset = loader['dataset'] if isinstance(loader, dict) else loader.dataset
        present = _classes_of(dataset)
        if present is not None and list(stored['classes']) != list(present):
            raise ValueError(
                f'the checkpoint must have been trained on the classes {list(present)}, but '
                f'{runner._load_from or "the resumed one"} has {list(stored["classes"])}; use the config it '
                'was trained with, or load only its backbone through `init_cfg`.'
            )


def _check_heads(runner: Runner, classes: list[str]) -> None:
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    model = getattr(model, 'module', model)  # the model inside test-time augmentation
    for name, module in model.named_modules():
        count = getattr(module, 'num_classes', None)
        if (
            count is not None
            and 'head' in name
            and '.' not in name.replace('auxiliary_head.', '')
            and count != len(classes)
        ):
            raise ValueError(
                f'`num_classes` of {name} must be {len(classes)} for the classes {list(classes)}, got {count}; '
                'state `num_classes` in the data set base and load the config through '
                '`mmdefect.apis.load_config` (tools/train.py does), or set it in every head.'
            )


def _classes_of(dataset) -> list[str] | None:
    """Class names of a built data set or of its config, without reading its files."""
    if hasattr(dataset, 'metainfo'):
        return dataset.metainfo.get('classes')
    if 'datasets' in dataset or 'dataset' in dataset:  # a wrapper; its parts have the same classes
        return _classes_of(dataset['datasets'][0] if 'datasets' in dataset else dataset['dataset'])
    from mmdefect.registry import DATASETS

    lazy = {**dataset, 'lazy_init': True, 'pipeline': []}
    return DATASETS.build(lazy).metainfo.get('classes')
