"""Train a segmentor and, from its loss on a split of its own, the policy that makes its synthetic defects."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from mmengine.dist import all_reduce, broadcast, get_rank, get_world_size
from mmengine.model import is_model_wrapper
from mmengine.runner import IterBasedTrainLoop
from mmengine.runner.loops import _InfiniteDataloaderIterator
from torch import Tensor

from mmdefect.datasets.checks import check_disjoint, check_donors
from mmdefect.engine.loops.sample_losses import fixed_noise, frozen_statistics, heads_of, weighted_heads
from mmdefect.functional.bilevel import BilevelProblem, ConjugateGradient, gradients, inner_steps, make_estimator
from mmdefect.models.data_preprocessors.synthesis_preprocessor import BatchSynthesis
from mmdefect.registry import LOOPS
from mmdefect.synthesis.learned.policy import REAL, LearnedPolicy
from mmdefect.synthesis.learned.synthesis import LearnedSynthesis


@dataclass
class OuterBatch:
    """What an outer step looks at."""

    inputs: Tensor  # (B, C, H, W) float, normalised training batch; may carry the gradient of the ranges
    samples: Sequence  # its data samples
    weights: Tensor  # (B,), see WeightedBatch
    streams: Sequence[str]  # stream of each sample
    outer_inputs: Tensor  # (N, C, H, W) float, normalised outer-validation batch
    outer_samples: Sequence  # its data samples


@LOOPS.register_module()
class BilevelTrainLoop(IterBasedTrainLoop):
    """Inner steps by the model's own optimiser; every ``interval`` of them an outer step of the policy.

    The recipe of the config says what is pasted (``synthesis.where='device'``, one ``PasteDefects``). In the data
    preprocessor the loop takes its place with a policy that is being learned. Policy and outer optimiser belong to the
    loop: the optimiser of the model never sees them, and ``PolicyHook`` saves them. Outer steps run in full precision
    with the running statistics of batch norms and change nothing of the model.

    Args:
        runner, dataloader, max_iters, **kwargs: as mmengine's ``IterBasedTrainLoop``.
        outer_dataloader: loader of the outer-validation split; a top-level ``outer_dataloader`` of a config comes here.
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
        self.curvature_share, self.recipe = curvature_share, recipe
        self.estimator = make_estimator(**(estimator or dict(name='neumann', terms=3, products='difference')))
        rank_seeds = runner._randomness_cfg.get('diff_rank_seed', False)
        self.outer_dataloader = runner.build_dataloader(outer_dataloader, runner.seed, rank_seeds)
        self.outer_iterator = _InfiniteDataloaderIterator(self.outer_dataloader)
        self.outer_steps = 0
        self.history: list[dict[str, float]] = []
        heads_of(self.module)
        self.preprocessor = self.module.data_preprocessor
        made = getattr(self.preprocessor, '_synthesize', None)
        if not isinstance(made, BatchSynthesis) or len(made.recipe.transforms) != 1:
            raise ValueError(
                'BilevelTrainLoop must find one PasteDefects in the data preprocessor to learn its policy; '
                "give the config a `synthesis` recipe with one PasteDefects and `where='device'`."
            )
        self.policy = LearnedPolicy(**(policy or {})).to(next(self.module.parameters()).device)
        if sparsity and (self.policy.location is None or self.policy.proposal.normalise):
            raise ValueError(
                f'`sparsity` must be 0 without learned locations or with normalised ones, which do not say how much, '
                f'got {sparsity}.'
            )
        if get_world_size() > 1:
            for tensor in self.policy.state_dict().values():
                broadcast(tensor, 0)
        engine, clean_share = made.recipe.transforms[0].engine, 1 - made.recipe.probability['clean']
        self.synthesis = LearnedSynthesis(engine, self.policy, clean_share)
        groups = self.policy.groups(rates or dict(weights=0.05, default=0.02))
        self.outer_optimizer = torch.optim.Adam(groups, betas=tuple(betas))

    @property
    def module(self):
        """The segmentor, unwrapped."""
        model = self.runner.model
        return model.module if is_model_wrapper(model) else model

    def run(self):
        """Check the splits, hand the policy to the preprocessor, train.

        Raises:
            ValueError: if splits share an image, a donor comes from a held-out image, or there is no validation.
        """
        if self.runner.val_loop is None:
            raise ValueError(
                'a bi-level training must have a validation set to choose its checkpoint on, other than the '
                'outer-validation set; set `val_dataloader`, `val_cfg` and `val_evaluator`.'
            )
        held_out = dict(outer_val=self.outer_dataloader.dataset, val=self.runner.val_dataloader.dataset)
        check_disjoint(dict(train=self.dataloader.dataset, **held_out))
        check_donors(self.synthesis.engine.library.sources, held_out)
        self.preprocessor.set_synthesis(self.synthesis)
        if not getattr(self, 'fast_forward_on_resume', False):
            self.outer_iterator.skip_iter(self.outer_steps)
        return super().run()

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
        # The noise of dropout follows from the number of the step, so that a resumed run has the same.
        noise = (self.runner.seed * 1_000_003 + self._iter * get_world_size() + get_rank()) % 2**31
        with wrapper.optim_context(model):
            with fixed_noise(noise, weights.device), weighted_heads(self.module, weights):
                losses = model(**data, mode='loss')
            loss, outputs = self.module.parse_losses(losses)
        wrapper.update_params(loss)
        return outputs

    def outer_step(self, data_batch: dict) -> None:
        """Move the policy against the hypergradient, taken at the present weights with this batch sampled anew."""
        self.synthesis.round, self.synthesis.differentiable = 2 * self._iter + 1, True
        device = next(self.module.parameters()).device
        with torch.autocast(device.type, enabled=False), frozen_statistics(self.module):
            batch = self._outer_batch(data_batch)
            found = self.estimator(self._problem(batch))
            slopes = self._policy_gradients(batch, found.gradient)
        for leaf, slope in zip(self.policy.leaves(), slopes, strict=True):
            leaf.grad = slope
        self.outer_optimizer.step()
        self.outer_optimizer.zero_grad(set_to_none=True)
        self.policy.project()
        self.outer_steps += 1
        record = dict(iter=float(self._iter), outer_loss=found.outer_loss, **self.policy.scalars())
        record['pasted'] = sum(s in self.policy.streams for s in batch.streams) / len(batch.streams)
        self.history.append(record)
        scalars = {f'policy/{key}': value for key, value in record.items() if key != 'iter'}
        self.runner.visualizer.add_scalars(scalars, step=self._iter + 1)

    def _outer_batch(self, data_batch: dict) -> OuterBatch:
        inner, made = self.preprocessor(data_batch, True), self.synthesis.last
        self.preprocessor.set_synthesis(None)
        try:
            outer = self.preprocessor(next(self.outer_iterator), True)
        finally:
            self.preprocessor.set_synthesis(self.synthesis)
        (inputs, samples), held_out = ((data['inputs'], data['data_samples']) for data in (inner, outer))
        return OuterBatch(inputs, samples, made.weights, made.streams, *held_out)

    def _problem(self, batch: OuterBatch) -> BilevelProblem:
        """Return the two losses as functions of the weights of the segmentor and of what the policy made of a batch.

        Its outer variables are the weights and the pixels of the samples of this process, as leaves; from there the
        gradient goes on to the parameters of the policy by the chain rule, which is why it is not averaged yet. Only
        samples that the policy acts on are passed through the net for it.
        """
        model, seed, share = self.module, self.outer_steps, self.curvature_share
        weights = [p for p in model.parameters() if p.requires_grad]
        steps, decay = (), ()
        if not isinstance(self.estimator, ConjugateGradient):
            steps, decay = inner_steps(self.runner.optim_wrapper.optimizer, weights)
        sample_weights, pixels = batch.weights.detach().clone().requires_grad_(), batch.inputs.detach()
        policy = [sample_weights]
        if batch.inputs.requires_grad:
            pixels = pixels.clone().requires_grad_()
            policy.append(pixels)
        acted = [i for i, stream in enumerate(batch.streams) if stream != REAL]
        count = max(1, round(len(batch.samples) * share))

        def losses(inputs: Tensor, samples: Sequence) -> Tensor:
            # Copies: some heads write into their data samples.
            with fixed_noise(seed, pixels.device), weighted_heads(model) as found:
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

        how = dict(curvature_loss=curvature_loss, average=mean_over_ranks, shared_policy=False)
        return BilevelProblem(weights, policy, inner_loss, outer_loss, steps, decay, **how)

    def _policy_gradients(self, batch: OuterBatch, through: list[Tensor]) -> list[Tensor]:
        """Carry the gradient by weights and pixels of the samples on to the parameters, and add the penalty."""
        leaves = self.policy.leaves()
        outputs = [batch.weights, batch.inputs] if batch.inputs.requires_grad else [batch.weights]
        total = gradients(outputs, leaves, through)
        if self.sparsity:
            penalty = self.sparsity * self.policy.location.sparsity(*self.synthesis.seen)
            total = [t + p for t, p in zip(total, gradients(penalty, leaves), strict=True)]
        return mean_over_ranks(total)

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
