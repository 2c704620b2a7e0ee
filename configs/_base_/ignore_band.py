# Pixels along the borders of labels, on which annotators disagree, are not asked for; defects of a few pixels stay.
ignore_band = dict(width=1, min_core=0.25)
