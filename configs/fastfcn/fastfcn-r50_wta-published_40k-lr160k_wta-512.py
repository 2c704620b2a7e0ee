# The published recipe in full; for other models lay it over a leaf: `--with wta_published`.
_base_ = [
    'mmseg::_base_/models/fastfcn_r50-d32_jpu_psp.py',
    '../_base_/wta_published.py',
    '../_base_/default_runtime.py',
]
