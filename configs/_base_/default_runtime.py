# What every training needs: the components, one seed, the log, and hooks that check classes and selection.
custom_imports = dict(imports=['mmdefect.registration'], allow_failed_imports=False)
default_scope = 'mmseg'
env_cfg = dict(
    cudnn_benchmark=True, mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0), dist_cfg=dict(backend='nccl')
)  # gloo is taken instead where there is no GPU
vis_backends = [dict(type='LocalVisBackend')]
visualizer = dict(type='SegLocalVisualizer', vis_backends=vis_backends, name='visualizer')
log_processor = dict(by_epoch=False)
log_level = 'INFO'
randomness = dict(seed=0)
load_from = None
resume = False
tta_model = dict(type='DefectTTAModel')
custom_hooks = [dict(type='ClassCheckHook'), dict(type='CalibrationHook'), dict(type='SelectionCheckHook')]
