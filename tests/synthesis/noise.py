"""Generators and images of noise."""

import torch


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise_image(height: int, width: int, seed: int = 0, channels: int = 3) -> torch.Tensor:
    return torch.rand(channels, height, width, generator=generator(seed))
