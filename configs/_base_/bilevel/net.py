# Learn where (a small net looks at the background) and how much each stream counts. `synthesis.where` must be 'device'.
bilevel = dict(
    policy=dict(
        learn=('weights', 'location'),
        location=dict(type='net', channels=16, side=64),
        proposal=dict(kind='mixture', share=0.3),
    ),
    estimator=dict(name='neumann', terms=3, products='difference'),
    rates=dict(weights=0.05, location=0.005),
    interval=7,
    warm_up=300,
    sparsity=0.0,
    outer=dict(batch_size=8, defective_share=0.75),
)
