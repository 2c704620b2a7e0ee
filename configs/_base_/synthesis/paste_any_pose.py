# As paste_on_object, with number and size as in paste_poisson: for parts that lie any way round (bottles, screws).
_base_ = ['./paste_on_object.py']
synthesis = dict(
    transforms=[
        dict(
            type='PasteDefects',
            policy=dict(
                number={1: 3, 2: 2, 3: 1},
                places=dict(even=1),
                blends=dict(poisson=1),
                max_extent=0.25,
                label='mask',
                tolerance=0.024,
            ),
        )
    ]
)
