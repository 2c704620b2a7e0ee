"""Mixed precision where mmengine's ``AmpOptimWrapper`` has none: on the CPU."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from torch import nn

from mmdefect.registry import OPTIM_WRAPPERS


@OPTIM_WRAPPERS.register_module()
class Bfloat16OptimWrapper(OptimWrapper):
    """Forward and loss under autocast to bfloat16 on the CPU; weights, gradients and optimiser stay float32.

    bfloat16 has the exponent of float32, so no loss has to be scaled. Validation and test run in float32.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Cast the model's products inside the block, and keep the synchronisation of the base class."""
        with super().optim_context(model), torch.autocast('cpu', dtype=torch.bfloat16):
            yield
