from .bilevel_loop import BilevelTrainLoop

__all__ = ['BilevelTrainLoop']
