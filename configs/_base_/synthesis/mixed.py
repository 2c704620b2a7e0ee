# Mostly pasted defects, now and then a moved part or a texture; one of them in an image.
synthesis = dict(
    ratio=dict(real=2, synthetic=1, clean=1),
    location=dict(object='foreground'),
    transforms=[
        dict(
            type='PasteDefects',
            policy=dict(
                number={1: 3, 2: 2, 3: 1},
                places=dict(density=1, source=1),
                blends=dict(poisson=3, feather=1),
                max_extent=0.25,
                label='mask',
                tolerance=0.024,
            ),
        ),
        dict(type='CutPaste', kind='scar', class_id=1),
        dict(type='PerlinAnomaly', class_id=1),
    ],
    weights=[6, 1, 1],
)
