"""Register every mmdefect component with mmseg; configs name this module in ``custom_imports``.

Importing it also makes ``_base_ = ['mmseg::...']`` and ``_base_ = ['mmdefect::...']`` resolve on both
distributions of OpenMMLab (see :mod:`mmdefect.compat`).
"""

from mmdefect import compat

compat.apply()

import mmseg.datasets  # noqa: E402
import mmseg.engine  # noqa: E402
import mmseg.evaluation  # noqa: E402
import mmseg.models  # noqa: E402
import mmseg.visualization  # noqa: E402,F401

import mmdefect.datasets  # noqa: E402
import mmdefect.engine  # noqa: E402
import mmdefect.evaluation  # noqa: E402
import mmdefect.models  # noqa: E402,F401
