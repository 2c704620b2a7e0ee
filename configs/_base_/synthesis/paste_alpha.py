# As paste_poisson, but the defect replaces the surface.
synthesis = dict(
    ratio=dict(real=2, synthetic=1, clean=1),
    location=dict(object='foreground'),
    transforms=[
        dict(
            type='PasteDefects',
            policy=dict(
                number={1: 3, 2: 2, 3: 1},
                places=dict(density=1, source=1),
                blends=dict(alpha=1),
                grow=1,
                max_extent=0.25,
                label='mask',
                tolerance=0.024,
            ),
        )
    ],
)
