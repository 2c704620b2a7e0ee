from .sum_loss import SumLoss

__all__ = ['SumLoss']
