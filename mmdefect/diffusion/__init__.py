"""Offline generation of defect images with latent diffusion: support sets, masks, learned words, sampling, editing.

Its output are folders of images with a manifest (:mod:`mmdefect.diffusion.manifest`). diffusers, transformers and
accelerate are imported where they are used and come with the extra ``generation``.
"""
