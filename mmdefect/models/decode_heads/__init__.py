from .criss_cross_head import CrissCrossHead
from .fitted_lraspp_head import FittedLRASPPHead

__all__ = ['CrissCrossHead', 'FittedLRASPPHead']
