# Real defects of the training split, pasted into clean images where defects were found; their gradients are imported.
# Donors found on the outline of the object go back to their own place, so the part must always lie the same way;
# without a fixed pose write `places=dict(density=1)`, or `dict(even=1)`. Real images keep half of the draws, as large
# defects fit nowhere else and would be seen less (docs/results/tiles_curve.md).
synthesis = dict(
    ratio=dict(real=2, synthetic=1, clean=1),
    location=dict(object='foreground'),
    transforms=[
        dict(
            type='PasteDefects',
            policy=dict(
                number={1: 3, 2: 2, 3: 1},
                places=dict(density=1, source=1),
                blends=dict(poisson=1),
                max_extent=0.25,
                label='mask',
                tolerance=0.024,
            ),
        )
    ],
)
