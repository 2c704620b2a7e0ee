from .synthesis_preprocessor import SynthesisDataPreProcessor
from .view_preprocessor import ViewDataPreProcessor

__all__ = ['SynthesisDataPreProcessor', 'ViewDataPreProcessor']
