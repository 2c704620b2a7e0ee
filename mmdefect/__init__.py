"""mmdefect: defects made on the fly, with exact labels, for any MMSegmentation model.

Importing this package loads nothing of OpenMMLab and nothing of torch. A config names
``mmdefect.registration`` in its ``custom_imports``; that is what registers the components.
"""

__version__ = '0.1.0'
