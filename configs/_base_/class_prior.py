# The last layers start at the class frequencies of the training set.
class_prior = dict(prior=None)
