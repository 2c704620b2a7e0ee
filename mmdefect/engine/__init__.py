from .hooks import *  # noqa: F401,F403
from .loops import *  # noqa: F401,F403
from .optim import *  # noqa: F401,F403
from .samplers import *  # noqa: F401,F403
