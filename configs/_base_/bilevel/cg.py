# The hypergradient by conjugate gradient, which does not depend on the inner optimiser and so not on its learning rate.
bilevel = dict(estimator=dict(_delete_=True, name='cg', iterations=5, damping=0.1, products='difference'))
