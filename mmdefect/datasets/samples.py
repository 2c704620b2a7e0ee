"""One image of a data set and where its label comes from; what every layout scan returns."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field

#: Defect type of an image without defects.
GOOD = 'good'
#: Suffixes of image files, lower case; files with other suffixes are not looked at.
IMAGE_SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.tif', '.tiff', '.webp')
#: Defect type when the layout does not say it and nobody has looked into the mask yet.
UNKNOWN = 'unknown'


@dataclass(frozen=True)
class Sample:
    """One image and its label.

    Attributes:
        img_path: path of the image file.
        seg_map_path: path of the mask file, or ``None`` for a clean image whose label is all zero.
        defect_type: name of the folder or group the image comes from: ``'good'``, a type, or ``'unknown'``.
        mask_encoding: ``'index'`` (class indices), ``'binary'`` (non-zero pixels are ``class_id``) or ``'palette'``.
        class_id: class of the non-zero pixels of a ``'binary'`` mask.
        palette: RGB per class of a ``'palette'`` mask.
        own_split: split the layout itself puts the image in, or ``None`` when it has no splits.
        category: product the image shows, in layouts of several products.
        extra: further keys for the pipeline, for example ``object_mask_path``.
    """

    img_path: str
    seg_map_path: str | None
    defect_type: str = UNKNOWN
    mask_encoding: str = 'index'
    class_id: int | None = None
    palette: list[list[int]] | None = None
    own_split: str | None = None
    category: str | None = None
    extra: dict = field(default_factory=dict)

    @property
    def is_clean(self) -> bool:
        """Whether the image is known to have no defect."""
        return self.defect_type == GOOD

    @property
    def stratum(self) -> str:
        """Defect type, with the product in front when there are several: the unit of stratified splits."""
        return f'{self.category}/{self.defect_type}' if self.category else self.defect_type


def relative_path(path: str, root: str) -> str:
    """Return ``path`` relative to ``root`` with forward slashes: the name of an image inside split files."""
    return os.path.relpath(path, root).replace(os.sep, '/')


def list_images(folder: str | os.PathLike) -> list[str]:
    """Return the paths of the images directly inside ``folder``, sorted by name; hidden files are left out."""
    try:
        names = sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError) as err:
        raise ValueError(f'{folder} must be a folder of images, but it does not exist; correct the path.') from err
    names = [n for n in names if not n.startswith('.') and os.path.splitext(n)[1].lower() in IMAGE_SUFFIXES]
    return [os.path.join(folder, name) for name in names]


def index_by_stem(paths: list[str], suffixes: tuple[str, ...] = ('',)) -> dict[str, str]:
    """Map the stem of every file to its path, without the first of ``suffixes`` that the stem ends in.

    Two files with one stem are an error, because a mask cannot be matched to its image then.
    """
    found: dict[str, str] = {}
    for path in paths:
        stem = os.path.splitext(os.path.basename(path))[0]
        for suffix in suffixes:
            if suffix and stem.endswith(suffix):
                stem = stem[: -len(suffix)]
                break
        if stem in found:
            raise ValueError(f'names without suffix must differ, but {found[stem]} and {path} share one; rename one.')
        found[stem] = path
    return found


def iter_data_infos(dataset) -> Iterator[dict]:
    """Yield the entries of a data set, also through concatenating, repeating and mixing wrappers."""
    if hasattr(dataset, 'datasets'):
        for part in dataset.datasets:
            yield from iter_data_infos(part)
    elif hasattr(dataset, 'dataset'):
        yield from iter_data_infos(dataset.dataset)
    else:
        dataset.full_init()
        classes = dataset.metainfo.get('classes')
        if dataset.metainfo.get('label_map'):
            classes = dataset.METAINFO['classes']
        for index in range(len(dataset)):
            info = dataset.get_data_info(index)
            info.setdefault('num_classes', None if classes is None else len(classes))
            yield info
