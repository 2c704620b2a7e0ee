from mmdefect import compat

compat.apply()  # before the first import of mmseg or mmpretrain, whichever function of this package is asked for

from .compose import compose  # noqa: E402
from .config import load_config  # noqa: E402
from .test import test  # noqa: E402
from .train import train  # noqa: E402

__all__ = ['compose', 'load_config', 'test', 'train']
