# Mostly pasted defects as in paste_poisson, now and then a moved part or a texture; one of them in an image.
_base_ = ['./paste_poisson.py']
synthesis = dict(
    weights=[6, 1, 1],
    transforms=[
        dict(
            type='PasteDefects',
            policy=dict(
                blends=dict(poisson=3, feather=1),
                number={1: 3, 2: 2, 3: 1},
                places=dict(density=1, source=1),
                max_extent=0.25,
                label='mask',
                tolerance=0.024,
            ),
        ),
        dict(type='CutPaste', kind='scar', class_id=1),
        dict(type='PerlinAnomaly', class_id=1),
    ],
)
