"""Images of what a model predicts: one PNG an image, and one sheet of the defective ones."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmdefect.registry import HOOKS
from mmdefect.visualization.grid import image_grid, legend
from mmdefect.visualization.overlay import overlay_labels

COLUMNS = ('image', 'label', 'prediction')


@HOOKS.register_module()
class PredictionSheetHook(Hook):
    """Write image, label and prediction side by side while testing.

    Args:
        output_dir: folder of the images; ``sheet.png`` in it shows the first defective images together.
        root: folder of the images that ``output_dir`` replaces in the names; ``None`` uses the bare file name.
        sheet_images: how many images the sheet shows.
    """

    def __init__(self, output_dir: str, root: str | None = None, sheet_images: int = 8) -> None:
        self.output_dir, self.root, self.sheet_images = Path(output_dir), root, sheet_images
        self.rows: list[list[np.ndarray]] = []
        self.names: list[str] = []

    def before_test_epoch(self, runner: Runner) -> None:
        """Forget the images of an earlier test."""
        self.rows, self.names = [], []

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: dict | None = None, outputs: Sequence | None = None
    ) -> None:
        """Draw the images of one batch."""
        meta = runner.test_dataloader.dataset.metainfo
        self.legend = legend(meta['classes'][1:], meta['palette'][1:])
        for sample in outputs:
            image = cv2.cvtColor(cv2.imread(sample.img_path, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
            maps = [field.data.squeeze(0).cpu().numpy() for field in (sample.gt_sem_seg, sample.pred_sem_seg)]
            row = [image, *(overlay_labels(image, m, meta['palette']) for m in maps)]
            path = Path(sample.img_path)
            relative = path.relative_to(self.root) if self.root else Path(path.name)
            self._save(relative.with_suffix('.png'), image_grid([row], column_titles=COLUMNS, footer=self.legend))
            if len(self.rows) < self.sheet_images and any(((m > 0) & (m != 255)).any() for m in maps):
                self.rows.append(row)
                self.names.append(path.stem)

    def after_test_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Write the sheet."""
        if self.rows and is_main_process():
            captions = [[name, '', ''] for name in self.names]
            grid = image_grid(self.rows, column_titles=COLUMNS, captions=captions, footer=self.legend)
            self._save('sheet.png', grid)
            runner.logger.info(f'overlay sheet: {self.output_dir / "sheet.png"}')

    def _save(self, name: str | Path, image: np.ndarray) -> None:
        target = self.output_dir / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not cv2.imwrite(str(target), cv2.cvtColor(image, cv2.COLOR_RGB2BGR)):
            raise OSError(f'{target} could not be written; check the free space and the permissions of its folder.')
