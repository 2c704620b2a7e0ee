"""Train a segmentor and, from its loss on a split of its own, the policy that makes its synthetic defects."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.dist import all_reduce, broadcast, get_rank, get_world_size
from mmengine.model import is_model_wrapper
from mmengine.runner import IterBasedTrainLoop
from mmengine.runner.loops import _InfiniteDataloaderIterator
from torch import Tensor, nn

from mmdefect.datasets.checks import check_disjoint, check_donors
from mmdefect.engine.loops.sample_losses import fixed_noise, frozen_statistics, heads_of, weighted_heads
from mmdefect.functional.bilevel import BilevelProblem, inner_steps, make_estimator
from mmdefect.models.data_preprocessors.synthesis_preprocessor import BatchSynthesis
from mmdefect.registry import LOOPS
from mmdefect.synthesis.learned.policy import REAL, LearnedPolicy
from mmdefect.synthesis.learned.synthesis import LearnedSynthesis


@LOOPS.register_module()
class BilevelTrainLoop(IterBasedTrainLoop):
    """Inner steps by the model's own optimiser; every ``interval`` of them an outer step of the policy.

    The recipe of the config says what is pasted (``synthesis.where='device'``, one ``PasteDefects``); the loop takes its
    place in the data preprocessor with a policy that is being learned. Policy and outer optimiser belong to the loop: the
    optimiser of the model never sees them, and ``PolicyHook`` saves them. Outer steps run in full precision with the
    running statistics of batch norms and change nothing of the model.

    Args:
        runner, dataloader, max_iters, **kwargs: as mmengine's ``IterBasedTrainLoop``.
        outer_dataloader: loader of the outer-validation split; a top-level ``outer_dataloader`` of a config is put here.
        policy: settings of :class:`~mmdefect.synthesis.learned.policy.LearnedPolicy`.
        recipe: the ``synthesis`` of the config, which :func:`~mmdefect.apis.compose` puts here; needed to freeze.
        estimator: ``name`` and settings of :func:`~mmdefect.functional.bilevel.make_estimator`.
        rates: learning rates of the policy by what is learned, see ``LearnedPolicy.groups``.
        interval: inner steps between outer steps.
        warm_up: inner steps before the first outer step.
        sparsity: factor of the mean of the location maps in the outer loss.
        curvature_share: share of the batch that products with the Hessian are computed on.
        betas: of Adam, the outer optimiser.
    """

    def __init__(
        self,
        runner,
        dataloader,
        max_iters: int,
        outer_dataloader: Mapping[str, Any],
        policy: Mapping[str, Any] | None = None,
        recipe: Mapping[str, Any] | None = None,
        estimator: Mapping[str, Any] | None = None,
        rates: Mapping[str, float] | None = None,
        interval: int = 7,
        warm_up: int = 500,
        sparsity: float = 0.0,
        curvature_share: float = 0.5,
        betas: Sequence[float] = (0.9, 0.99),
        **kwargs,
    ) -> None:
        super().__init__(runner, dataloader, max_iters, **kwargs)
        if interval < 1 or warm_up < 0 or sparsity < 0 or not 0 < curvature_share <= 1:
            raise ValueError(
                '`interval` must be at least 1, `warm_up` and `sparsity` at least 0 and `curvature_share` in '
                f'(0, 1], got {interval}, {warm_up}, {sparsity} and {curvature_share}.'
            )
        self.interval, self.warm_up, self.sparsity = interval, warm_up, sparsity
        self.curvature_share = curvature_share
        self.recipe = recipe
        self.estimator = make_estimator(
            **(dict(estimator) if estimator else dict(name='neumann', terms=3, products='difference'))
        )
        self.outer_dataloader = runner.build_dataloader(
            outer_dataloader, seed=runner.seed, diff_rank_seed=runner._randomness_cfg.get('diff_rank_seed', False)
        )
        self.outer_iterator = _InfiniteDataloaderIterator(self.outer_dataloader)
        self.outer_steps = 0
        self.history: list[dict[str, float]] = []
        model = self.module
        heads_of(model)
        self.preprocessor = model.data_preprocessor
        engine, clean_share = self._recipe_engine()
        self.policy = LearnedPolicy(**(policy or {})).to(next(model.parameters()).device)
        if sparsity and (self.policy.location is None or self.policy.proposal.normalise):
            raise ValueError(
                '`sparsity` must be 0 without learned locations, and with normalised ones, which say '
                f'nothing about how much, got {sparsity}.'
            )
        if get_world_size() > 1:
            for tensor in self.policy.state_dict().values():
                broadcast(tensor, 0)
        self.synthesis = LearnedSynthesis(engine, self.policy, clean_share)
        self.outer_optimizer = torch.optim.Adam(
            self.policy.groups(rates or dict(weights=0.05, default=0.02)), betas=tuple(betas)
        )

    @property
    def module(self):
        """The segmentor, unwrapped."""
        model = self.runner.model
        return model.module if is_model_wrapper(model) else model

    def _recipe_engine(self):
        made = getattr(self.preprocessor, '_synthesize', None)
        if not isinstance(made, BatchSynthesis) or len(made.recipe.transforms) != 1:
            raise ValueError(
                'BilevelTrainLoop must find one PasteDefects in the data preprocessor to learn its policy; '
                "give the config a `synthesis` recipe with one PasteDefects and `where='device'`."
            )
        return made.recipe.transforms[0].engine, 1 - made.recipe.probability['clean']

    def run(self):
        """Check the splits, hand the policy to the preprocessor, train.

        Raises:
            ValueError: if splits share an image, a donor comes from a held-out image, or there is no validation.
        """
        self.check_splits()
        self.preprocessor.set_synthesis(self.synthesis)
        if not getattr(self, 'fast_forward_on_resume', False):
            self.outer_iterator.skip_iter(self.outer_steps)
        return super().run()

    def check_splits(self) -> None:
        """Refuse to start when training, outer validation and selection share an image; see :meth:`run`."""
        if self.runner.val_loop is None:
            raise ValueError(
                'a bi-level training must have a validation set to choose its checkpoint on, other than the '
                'outer-validation set; set `val_dataloader`, `val_cfg` and `val_evaluator`.'
            )
        held_out = dict(outer_val=self.outer_dataloader.dataset, val=self.runner.val_dataloader.dataset)
        check_disjoint(dict(train=self.dataloader.dataset, **held_out))
        check_donors(self.synthesis.engine.library.sources, held_out)

    def run_iter(self, data_batch: dict) -> None:
        """Do one inner step, and an outer step when it is time."""
        runner = self.runner
        runner.call_hook('before_train_iter', batch_idx=self._iter, data_batch=data_batch)
        due = self._iter >= self.warm_up and (self._iter - self.warm_up + 1) % self.interval == 0
        again = copy_batch(data_batch) if due else None  # the preprocessor takes what it reads out of the samples
        outputs = self.inner_step(data_batch)
        if due:
            self.outer_step(again)
            outputs['outer_loss'] = torch.tensor(self.history[-1]['outer_loss'])
        runner.call_hook('after_train_iter', batch_idx=self._iter, data_batch=data_batch, outputs=outputs)
        self._iter += 1

    def inner_step(self, data_batch: dict) -> dict:
        """Move the weights of the model against the weighted loss of this batch; return what is logged."""
        model, wrapper = self.runner.model, self.runner.optim_wrapper
        self.synthesis.round, self.synthesis.differentiable = 2 * self._iter, False
        data = self.preprocessor(data_batch, True)
        weights = self.synthesis.last.weights
        # Dropout draws by the number of the step, so that a resumed run draws the same.
        noise = (self.runner.seed * 1_000_003 + self._iter * get_world_size() + get_rank()) % 2**31
        with wrapper.optim_context(model):
            with fixed_noise(noise, weights.device), weighted_heads(self.module, weights):
                losses = model(**data, mode='loss')
            loss, outputs = self.module.parse_losses(losses)
        wrapper.update_params(loss)
        return outputs

    def outer_step(self, data_batch: dict) -> None:
        """Move the policy against the hypergradient, taken at the present weights with new draws on this batch."""
        device = next(self.module.parameters()).device
        self.synthesis.round, self.synthesis.differentiable = 2 * self._iter + 1, True
        with torch.autocast(device.type, enabled=False), frozen_statistics(self.module):
            batch = self._outer_batch(data_batch)
            weights = [p for p in self.module.parameters() if p.requires_grad]
            steps, decay = (
                ((), ())
                if type(self.estimator).__name__ == 'ConjugateGradient'
                else inner_steps(self.runner.optim_wrapper.optimizer, weights)
            )
            problem = outer_problem(self.module, weights, batch, steps, decay, mean_over_ranks, self.outer_steps)
            found = self.estimator(problem)
            gradients = self._policy_gradients(batch, found.gradient)
        for leaf, gradient in zip(self.policy.leaves(), gradients, strict=True):
            leaf.grad = gradient
        self.outer_optimizer.step()
        self.outer_optimizer.zero_grad(set_to_none=True)
        self.policy.project()
        self.outer_steps += 1
        self._remember(found.outer_loss, batch)

    def _outer_batch(self, data_batch: dict) -> OuterBatch:
        inner = self.preprocessor(data_batch, True)
        drawn = self.synthesis.last
        self.preprocessor.set_synthesis(None)
        try:
            outer_raw = next(self.outer_iterator)
            outer = self.preprocessor(outer_raw, True)
        finally:
            self.preprocessor.set_synthesis(self.synthesis)
        return OuterBatch(
            inner['inputs'],
            inner['data_samples'],
            drawn.weights,
            drawn.streams,
            outer['inputs'],
            outer['data_samples'],
            self.curvature_share,
        )

    def _policy_gradients(self, batch: OuterBatch, through: list[Tensor]) -> list[Tensor]:
        """Carry the gradient by weights and pixels of the samples on to the parameters, and add the penalty."""
        leaves = self.policy.leaves()
        outputs = [batch.weights] + ([batch.inputs] if batch.inputs.requires_grad else [])
        pairs = [(o, g) for o, g in zip(outputs, through, strict=True) if o.requires_grad]
        total = [torch.zeros_like(p) for p in leaves]
        if pairs:
            total = _filled(
                torch.autograd.grad([o for o, _ in pairs], leaves, [g for _, g in pairs], allow_unused=True), leaves
            )
        if self.sparsity:
            penalty = self.sparsity * self.policy.location.sparsity(*self.synthesis.seen)
            total = [
                t + p
                for t, p in zip(
                    total, _filled(torch.autograd.grad(penalty, leaves, allow_unused=True), leaves), strict=True
                )
            ]
        return mean_over_ranks(total)

    def _remember(self, outer_loss: float, batch: OuterBatch) -> None:
        found = dict(iter=float(self._iter), outer_loss=outer_loss, **self.policy.scalars())
        found['pasted'] = sum(s in self.policy.streams for s in batch.streams) / len(batch.streams)
        self.history.append(found)
        self.runner.visualizer.add_scalars(
            {f'policy/{k}': v for k, v in found.items() if k != 'iter'}, step=self._iter + 1
        )

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed run needs beside what mmengine saves."""
        return dict(
            policy={k: v.cpu() for k, v in self.policy.state_dict().items()},
            optimizer=self.outer_optimizer.state_dict(),
            outer_steps=self.outer_steps,
            history=copy.deepcopy(self.history),
        )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what :meth:`state_dict` gave out."""
        self.policy.load_state_dict(state['policy'])
        self.outer_optimizer.load_state_dict(state['optimizer'])
        self.outer_steps, self.history = int(state['outer_steps']), list(state['history'])


def copy_batch(data_batch: dict) -> dict:
    """Copy a collated batch, so that a second pass through the preprocessor finds it as the first did."""
    return {
        key: [one.clone() for one in value] if isinstance(value, (list, tuple)) else copy.deepcopy(value)
        for key, value in data_batch.items()
    }


def mean_over_ranks(tensors: list[Tensor]) -> list[Tensor]:
    """Average each tensor over all processes."""
    if get_world_size() == 1:
        return tensors
    means = [t.detach().clone().contiguous() for t in tensors]
    for mean in means:
        all_reduce(mean, 'mean')
    return means


def _filled(found, leaves: list[Tensor]) -> list[Tensor]:
    return [torch.zeros_like(p) if g is None else g for p, g in zip(leaves, found, strict=True)]


@dataclass
class OuterBatch:
    """What an outer step looks at.

    Attributes:
        inputs: ``(B, C, H, W)`` float, normalised training batch; may carry the gradient of the ranges.
        samples: its data samples.
        weights: ``(B,)`` of :class:`~mmdefect.synthesis.learned.synthesis.WeightedBatch`.
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
