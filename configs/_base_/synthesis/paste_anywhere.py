# Real defects of the training split anywhere in the frame: for surfaces that fill it, and the random arm of studies.
synthesis = dict(
    ratio=dict(real=2, synthetic=1, clean=1),
    location=dict(object='frame'),
    transforms=[
        dict(
            type='PasteDefects',
            policy=dict(places=dict(even=1), blends=dict(poisson=1), max_extent=0.5, min_inside=0.0, label='mask'),
        )
    ],
)
