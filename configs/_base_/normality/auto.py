# As bank or place, whichever explains held-out good images better.
augmentation = dict(scale=(1, 1), light=0)
normality = dict(kind='auto')
