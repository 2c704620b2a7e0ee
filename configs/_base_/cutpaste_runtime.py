# What CutPaste training needs: default_runtime with plain logging, and a backbone that is frozen at first.
_base_ = ['./default_runtime.py']
custom_imports = dict(
    imports=['mmdefect.registration', 'mmdefect.models.cutpaste_classifier'], allow_failed_imports=False
)
vis_backends = [dict(type='LocalVisBackend'), dict(type='TensorboardVisBackend')]
visualizer = dict(_delete_=True, type='Visualizer', vis_backends=vis_backends, name='visualizer')
custom_hooks = [dict(type='FreezeBackboneHook', updates=20)]  # only where the weights are pretrained
find_unused_parameters = True  # of the frozen backbone, in distributed training
