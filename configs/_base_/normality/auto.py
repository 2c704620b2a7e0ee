# As bank or place, whichever explains held-out good images better.
normality = dict(kind='auto')
