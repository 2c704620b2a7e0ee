# As paste_poisson, but the defect replaces the surface.
_base_ = ['./paste_poisson.py']
synthesis = dict(
    transforms=[
        dict(
            type='PasteDefects',
            policy=dict(
                blends=dict(alpha=1),
                grow=1,
                number={1: 3, 2: 2, 3: 1},
                places=dict(density=1, source=1),
                max_extent=0.25,
                label='mask',
                tolerance=0.024,
            ),
        )
    ]
)
