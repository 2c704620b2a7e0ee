"""Packed sets of generated images, alone or beside a real data set."""

from collections.abc import Sequence
from typing import ClassVar

from mmengine.dataset import ConcatDataset

from mmdefect.datasets.base import DefectDataset
from mmdefect.datasets.samples import Sample
from mmdefect.diffusion.pack import BOXES, read_pack
from mmdefect.registry import DATASETS


@DATASETS.register_module()
class GeneratedDefectDataset(DefectDataset):
    """Images that ``tools/generate.py pack`` wrote. They are for training: validation and test are real.

    Args:
        folder: the packed set. It is no ``data_root``, so a data root given for the real data does not move it.
        metainfo: classes and palette; those of the packed set by default.
        **kwargs: see :class:`~mmdefect.datasets.base.DefectDataset`.
    """

    METAINFO: ClassVar = {}

    def __init__(self, folder: str, metainfo: dict | None = None, **kwargs) -> None:
        self.packed = read_pack(folder)
        super().__init__(metainfo=metainfo or dict(classes=self.packed.classes), **kwargs)
        if len(self.metainfo['classes']) != len(self.packed.classes):
            raise ValueError(
                f'the packed set {folder} must have the classes of the training, {self.metainfo["classes"]}, got '
                f'{self.packed.classes}; pack it with --classes of that data set.'
            )

    def scan(self) -> list[Sample]:
        """List the images of the packed set."""
        folder, boxes = self.packed.folder, self.packed.labels == BOXES
        samples = []
        for image in self.packed.images:
            extra = dict(generated_from=image.entry['source'], box_labels=boxes)
            samples.append(Sample(f'{folder}/{image.image}', f'{folder}/{image.label}', own_split='train', extra=extra))
        return samples


@DATASETS.register_module()
class MixedDefectDataset(ConcatDataset):
    """Several data sets after one another, with the numbered samples of our data sets kept.

    mmengine's ``ConcatDataset`` hands on plain indices; then the randomness of a sample would be its worker's.

    Args:
        datasets: settings of the parts, or the parts themselves.
        **kwargs: see mmengine's ``ConcatDataset``.
    """

    _sample_seed: int | None = None

    def __init__(self, datasets: Sequence[dict | DefectDataset], **kwargs) -> None:
        # mmengine looks settings up in its own registry, which does not know the data sets of mmseg.
        super().__init__([DATASETS.build(d) if isinstance(d, dict) else d for d in datasets], **kwargs)

    def set_sample_seed(self, seed: int, *ranks: int) -> None:
        """Take numbered samples from now on, as every part does; see :mod:`mmdefect.datasets.seeding`."""
        self._sample_seed = int(seed)
        for part in self.datasets:
            part.set_sample_seed(seed, *ranks)

    def __getitem__(self, number: int) -> dict:
        """Return one sample."""
        if self._sample_seed is None:
            return super().__getitem__(number)
        position, index = divmod(number, len(self))
        part, inside = self._get_ori_dataset_idx(index)
        return self.datasets[part][position * len(self.datasets[part]) + inside]
