"""A base of arms, laid over one of pasting: a third of the draws real, a third pasted, a third clean."""

synthesis = dict(ratio=dict(real=1, synthetic=1, clean=1))
