# The hypergradient of one step, the cheapest, and twice as many outer steps for it.
bilevel = dict(estimator=dict(_delete_=True, name='one_step', products='difference'), interval=2)
