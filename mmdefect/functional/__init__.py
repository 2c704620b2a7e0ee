"""The mathematics: losses, metrics, densities, bi-level steps. Nothing here imports OpenMMLab."""
