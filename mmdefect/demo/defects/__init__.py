"""Defects by kind: a sampler returns a small record of parameters, and the record's ``apply`` edits the surface."""
