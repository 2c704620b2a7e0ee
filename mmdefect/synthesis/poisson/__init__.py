"""Poisson composition: the membrane of a mask, solvers for any domain, and blends in the gradient domain."""
