# Real defects of the training split anywhere in the frame: for surfaces that fill it, and the random arm of studies.
_base_ = ['./paste_poisson.py']
synthesis = dict(
    location=dict(object='frame'),
    transforms=[
        dict(
            type='PasteDefects',
            policy=dict(places=dict(even=1), blends=dict(poisson=1), max_extent=0.5, min_inside=0.0, label='mask'),
        )
    ],
)
