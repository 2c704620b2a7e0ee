"""Fill the memories of a NormalityNeck from the good training images, and say which image each sample is."""

import time
from collections.abc import Iterator

import numpy as np
import torch
from mmengine.dataset import Compose, pseudo_collate
from mmengine.dist import broadcast, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor, nn

from mmdefect.datasets.checks import check_donors
from mmdefect.datasets.donors import without_pipeline
from mmdefect.datasets.presence import class_presence
from mmdefect.datasets.samples import iter_data_infos
from mmdefect.engine.hooks.model_hooks import unwrapped
from mmdefect.functional.normality import NOBODY
from mmdefect.models.normality_neck import KINDS, MAPS, NormalityNeck, fill
from mmdefect.registry import DATASETS, HOOKS

#: Dimensions that a flip turns, by the word of mmcv's transforms.
FLIPS = {'horizontal': (2,), 'vertical': (1,), 'diagonal': (1, 2)}


@HOOKS.register_module()
class NormalityHook(Hook):
    """Fill the memories of the model's ``NormalityNeck`` before the training, from the good images of its split.

    The images are prepared as for validation, whole and without augmentation. One process fills, all hold the same.
    In training a sample is not compared with what its own image gave.

    Args:
        interval: updates after which the memories are filled again; needed where the backbone is trained. 0: never.
        max_images: most good images that are read, spread evenly over the set.
        features: most features of a level that a bank is chosen from.
    """

    priority = 'LOW'  # behind the hooks that load the backbone

    def __init__(self, interval: int = 0, max_images: int = 300, features: int = 40_000) -> None:
        self.interval, self.max_images, self.features = interval, max_images, features
        self.owner_of: dict[str, int] = {}

    def before_train(self, runner: Runner) -> None:
        """Find the good images; fill, unless the run was resumed."""
        self.neck = next((m for m in unwrapped(runner).modules() if isinstance(m, NormalityNeck)), None)
        if self.neck is None:
            raise ValueError(
                f'NormalityHook must find a NormalityNeck in the model, but {type(unwrapped(runner)).__name__} has '
                'none; set `normality` in the config, which adds both.'
            )
        self.infos = self._good_images(runner)
        self.owner_of = {info['img_path']: number for number, info in enumerate(self.infos)}
        if int(self.neck.chosen) < 0 or not runner._resume:
            self._fill(runner)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: dict | None = None) -> None:
        """Fill again where it is time; tell the neck which images the batch shows."""
        if self.interval and runner.iter and runner.iter % self.interval == 0:
            self._fill(runner)
        metas = [sample.metainfo for sample in data_batch['data_samples']]
        device = self.neck.chosen.device
        self.neck.owners = torch.tensor([self.owner_of.get(m['img_path'], NOBODY) for m in metas], device=device)
        self.neck.flips = [FLIPS[m['flip_direction']] if m.get('flip') else () for m in metas]

    def after_train_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Forget the batch: validation compares with everything."""
        self.neck.owners = self.neck.flips = None

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Leave out the memories of the kind that is not used."""
        unused = {'bank', 'place'} - {self.neck.used}
        for state in (checkpoint[name] for name in ('state_dict', 'ema_state_dict') if name in checkpoint):
            for key in [k for k in state if any(f'memories.{kind}.' in k for kind in unused)]:
                del state[key]

    def _good_images(self, runner: Runner) -> list[dict]:
        dataset = runner.train_dataloader.dataset
        shown = class_presence(dataset)
        infos = [info for info, classes in zip(iter_data_infos(dataset), shown, strict=True) if classes <= {0, 255}]
        infos = list({info['img_path']: info for info in infos}.values())
        loaders = {name: runner.cfg.get(f'{name}_dataloader') for name in ('val', 'test')}
        held_out = {name: DATASETS.build(without_pipeline(d.dataset)) for name, d in loaders.items() if d}
        check_donors([info['img_path'] for info in infos], held_out)
        keep = np.unique(np.linspace(0, len(infos) - 1, min(self.max_images, len(infos))).round().astype(int))
        order = np.concatenate([keep[start::step] for step in [max(1, -(-len(keep) // MAPS))] for start in range(step)])
        return [infos[place] for place in order]  # the first ones are spread evenly as well

    def _fill(self, runner: Runner) -> None:
        started, neck, model = time.monotonic(), self.neck, unwrapped(runner)
        if is_main_process():
            training = model.training
            model.eval()
            with torch.no_grad():
                said = fill(neck, lambda: self._embedded(runner, model), len(self.infos), self.features)
            model.train(training)
            runner.logger.info(
                'Normality: %s of %d good images in %.0f s. Unexplained of held-out good features: %s.',
                neck.used, len(self.infos), time.monotonic() - started, said,
            )  # fmt: skip
        for buffer in neck.buffers():
            broadcast(buffer, 0)
        neck.used = KINDS[int(neck.chosen)]

    def _embedded(self, runner: Runner, model: nn.Module) -> Iterator[list[Tensor]]:
        """Yield the features of each good image, a batch of one."""
        loader = runner.cfg.get('val_dataloader') or runner.cfg.get('test_dataloader')
        steps = [s for s in loader.dataset.pipeline if s['type'] not in ('LoadAnnotations', 'LoadDefectAnnotations')]
        prepare = Compose(steps)
        for info in self.infos:
            sample = prepare({k: v for k, v in info.items() if k != 'seg_map_path'})
            inputs = model.data_preprocessor(pseudo_collate([sample]), False)['inputs']
            yield list(model.backbone(inputs))
