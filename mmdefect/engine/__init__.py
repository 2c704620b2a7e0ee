from . import hooks, loops, optim, samplers

__all__ = ['hooks', 'loops', 'optim', 'samplers']
