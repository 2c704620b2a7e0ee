from .backbone_weights import CutPasteBackboneInit  # noqa: F401
from .data_preprocessors import *  # noqa: F403
from .decode_heads import *  # noqa: F403
from .losses import *  # noqa: F403
from .normality_neck import NormalityNeck  # noqa: F401
from .tta import *  # noqa: F403
