from .synthesis_preprocessor import SynthesisDataPreProcessor

__all__ = ['SynthesisDataPreProcessor']
