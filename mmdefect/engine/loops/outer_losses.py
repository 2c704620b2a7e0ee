"""The two losses of an outer step as functions of the weights of a segmentor and of what the policy made of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from mmdefect.engine.loops.sample_losses import fixed_noise, weighted_heads
from mmdefect.functional.bilevel import BilevelProblem
from mmdefect.synthesis.learned_policy import REAL


@dataclass
class OuterBatch:
    """What an outer step looks at.

    Attributes:
        inputs: ``(B, C, H, W)`` float, normalised training batch; may carry the gradient of the ranges.
        samples: its data samples.
        weights: ``(B,)`` of :class:`~mmdefect.synthesis.learned_synthesis.WeightedBatch`.
        streams: stream of each sample.
        outer_inputs: ``(N, C, H, W)`` float, normalised outer-validation batch.
        outer_samples: its data samples.
        curvature_share: share of the training batch that stands for all of it in products with the Hessian.
    """

    inputs: Tensor
    samples: Sequence
    weights: Tensor
    streams: Sequence[str]
    outer_inputs: Tensor
    outer_samples: Sequence
    curvature_share: float = 1.0


def outer_problem(
    model: nn.Module,
    weights: Sequence[Tensor],
    batch: OuterBatch,
    steps: Sequence,
    decay: Sequence,
    average: Callable,
    seed: int,
) -> BilevelProblem:
    """Return the problem at the present weights.

    Its outer variables are the weights and the pixels of the samples of this process, as leaves; from there the
    gradient goes on to the parameters of the policy by the chain rule, which is why it is not averaged yet. Only samples
    that the policy acts on are passed through the net for it.

    Args:
        model: the segmentor, with frozen statistics.
        weights: its trainable parameters.
        batch: the samples.
        steps, decay, average: see :class:`~mmdefect.functional.bilevel.BilevelProblem`.
        seed: of the noise of layers that cannot be switched off.
    """
    sample_weights = batch.weights.detach().clone().requires_grad_()
    policy = [sample_weights]
    pixels = batch.inputs.detach()
    if batch.inputs.requires_grad:
        pixels = pixels.clone().requires_grad_()
        policy.append(pixels)
    acted = [i for i, stream in enumerate(batch.streams) if stream != REAL]
    count = max(1, round(len(batch.samples) * batch.curvature_share))
    device = pixels.device

    def losses(inputs: Tensor, samples: Sequence) -> Tensor:
        # Copies: some heads write into their data samples.
        with fixed_noise(seed, device), weighted_heads(model) as found:
            model(inputs=inputs, data_samples=list(samples), mode='loss')
        return found.values

    def inner_loss() -> Tensor:
        if not acted:
            return sample_weights.sum() * 0
        values = losses(pixels[acted], [batch.samples[i] for i in acted])
        return (values * sample_weights[acted].to(values)).sum() / len(batch.samples)

    def curvature_loss() -> Tensor:
        values = losses(pixels[:count].detach(), batch.samples[:count])
        return (values * batch.weights[:count].detach().to(values)).mean()

    def outer_loss() -> Tensor:
        return losses(batch.outer_inputs, batch.outer_samples).mean()

    return BilevelProblem(
        weights, policy, inner_loss, outer_loss, steps, decay, curvature_loss, average, shared_policy=False
    )
