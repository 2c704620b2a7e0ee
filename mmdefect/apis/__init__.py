from .config import compose, load_config
from .test import test
from .train import train

__all__ = ['compose', 'load_config', 'test', 'train']
