from .criss_cross_head import CrissCrossHead

__all__ = ['CrissCrossHead']
