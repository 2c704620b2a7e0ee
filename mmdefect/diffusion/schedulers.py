"""Samplers by name; all of diffusers, configured by the noise schedule that the model was trained with."""

from __future__ import annotations

import inspect

from mmdefect.diffusion.extras import need

SCHEDULERS = {
    'ddim': ('DDIMScheduler', dict(clip_sample=False, set_alpha_to_one=False)),
    'dpm++': ('DPMSolverMultistepScheduler', dict(algorithm_type='dpmsolver++')),
    'euler': ('EulerDiscreteScheduler', {}),
    'euler-a': ('EulerAncestralDiscreteScheduler', {}),
    'heun': ('HeunDiscreteScheduler', {}),
    'lms': ('LMSDiscreteScheduler', {}),
    'pndm': ('PNDMScheduler', dict(skip_prk_steps=True)),
    'unipc': ('UniPCMultistepScheduler', {}),
}


def make_scheduler(config: dict, name: str):
    """Return a scheduler of diffusers.

    Args:
        config: of the scheduler that came with the model.
        name: a key of :data:`SCHEDULERS`.

    Raises:
        ValueError: for another name.
    """
    if name not in SCHEDULERS:
        raise ValueError(f'`scheduler` must be one of {", ".join(SCHEDULERS)}, got {name!r}.')
    cls, options = SCHEDULERS[name]
    return getattr(need('diffusers'), cls).from_config(config, **options)


def step_options(scheduler, generators: list, eta: float) -> dict:
    """Return what ``scheduler.step`` takes beside its three arguments: generators and eta, where it knows them."""
    known = inspect.signature(scheduler.step).parameters
    options = {}
    if 'generator' in known:
        options['generator'] = generators
    if 'eta' in known:
        options['eta'] = eta
    return options
