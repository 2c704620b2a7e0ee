"""One face for the three kinds of latent diffusion that are supported: text in, latents in and out, noise predicted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmdefect.diffusion.tokens import InjectedEmbedding, TokenBank

#: Longest text of all supported encoders, with its two marks.
MAX_TOKENS = 77


@dataclass(frozen=True)
class TextCondition:
    """Encoded text.

    Attributes:
        tokens: ``(B, L, D)`` float.
        pooled: ``(B, P)`` float for SDXL, otherwise ``None``.
    """

    tokens: Tensor
    pooled: Tensor | None = None

    def __len__(self) -> int:
        """Number of texts."""
        return len(self.tokens)

    def __getitem__(self, index: slice | Tensor | list[int]) -> TextCondition:
        """Return some of the texts."""
        return TextCondition(self.tokens[index], None if self.pooled is None else self.pooled[index])

    @staticmethod
    def cat(parts: Sequence[TextCondition]) -> TextCondition:
        """Return the texts of all parts, one after the other."""
        pooled = None if parts[0].pooled is None else torch.cat([p.pooled for p in parts])
        return TextCondition(torch.cat([p.tokens for p in parts]), pooled)


class LatentModel:
    """A loaded pipeline, taken apart.

    Args:
        pipeline: of diffusers.
        kind: ``ldm``, ``sd`` or ``sdxl``.
        name: folder or hub id, for manifests and messages.
        device: where it computes.
        dtype: number format of the network; latents and losses are float32.

    Attributes:
        unet: predicts the noise.
        vae: between images and latents.
        tokenizers: one for each text encoder.
        text_encoders: one, or two for SDXL.
        factor: pixels of an image per latent pixel, along one side.
    """

    def __init__(self, pipeline, kind: str, name: str, device: torch.device | str, dtype: torch.dtype) -> None:
        self.pipeline, self.kind, self.name = pipeline, kind, name
        self.device, self.dtype = torch.device(device), dtype
        self.unet: nn.Module = pipeline.unet
        self.vae: nn.Module = pipeline.vqvae if kind == 'ldm' else pipeline.vae
        self.tokenizers = [pipeline.tokenizer] + ([pipeline.tokenizer_2] if kind == 'sdxl' else [])
        self.text_encoders: list[nn.Module] = [pipeline.bert] if kind == 'ldm' else [pipeline.text_encoder]
        if kind == 'sdxl':
            self.text_encoders.append(pipeline.text_encoder_2)
        self.factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        for encoder in self.text_encoders:
            encoder.set_input_embeddings(InjectedEmbedding(encoder.get_input_embeddings()))
        for module in (self.unet, self.vae, *self.text_encoders):
            module.requires_grad_(False)
            module.eval()

    @property
    def latent_channels(self) -> int:
        """Channels of a latent."""
        return self.unet.config.in_channels

    @property
    def embeddings(self) -> list[InjectedEmbedding]:
        """The token embeddings of the text encoders."""
        return [encoder.get_input_embeddings() for encoder in self.text_encoders]

    @property
    def dtype_name(self) -> str:
        """Number format as the command line names it."""
        return {torch.float32: 'fp32', torch.float16: 'fp16', torch.bfloat16: 'bf16'}[self.dtype]

    @property
    def prediction_type(self) -> str:
        """What the network predicts: ``epsilon`` or ``v_prediction``."""
        return self.pipeline.scheduler.config.get('prediction_type', 'epsilon')

    def alphas_cumprod(self) -> Tensor:
        """Return the signal power at every training step, ``(T,)`` float32 on the CPU."""
        return self.pipeline.scheduler.alphas_cumprod.float().cpu()

    def check_size(self, size_hw: tuple[int, int]) -> None:
        """Refuse sizes that do not divide into latents.

        Raises:
            ValueError: with the nearest size that does.
        """
        step = self.factor * 2 ** (len(self.unet.config.block_out_channels) - 1)
        if any(side % step or side < step for side in size_hw):
            near = tuple(max(step, round(side / step) * step) for side in size_hw)
            raise ValueError(
                f'the size that is computed must be a multiple of {step} for {self.name}, got '
                f'{size_hw[0]} {size_hw[1]}; give --resolution {near[0]} {near[1]}.'
            )

    def tokenize(self, texts: Sequence[str], bank: TokenBank | None = None) -> list[tuple[Tensor, Tensor | None]]:
        """Return, for each encoder, ids ``(B, 77)`` int64 and the places of learned tokens, see :class:`TokenBank`."""
        encoded = []
        for tokenizer in self.tokenizers:
            if bank is not None:
                encoded.append(bank.tokenize(tokenizer, texts, MAX_TOKENS))
            else:
                ids = tokenizer(
                    list(texts), padding='max_length', max_length=MAX_TOKENS, truncation=True, return_tensors='pt'
                ).input_ids
                encoded.append((ids, None))
        return encoded

    def encode_text(self, texts: Sequence[str], bank: TokenBank | None = None) -> TextCondition:
        """Encode texts; learned tokens are taken from ``bank``.

        Raises:
            ValueError: if a text with a learned token is too long for it.
        """
        tokens, pooled = [], None
        for index, (encoder, (ids, places)) in enumerate(
            zip(self.text_encoders, self.tokenize(texts, bank), strict=True)
        ):
            ids = ids.to(self.device)
            with encoder.get_input_embeddings().inject(places, None if bank is None else bank.vectors[index]):
                if self.kind == 'sdxl':
                    output = encoder(ids, output_hidden_states=True)
                    tokens.append(output.hidden_states[-2])
                    pooled = output[0] if index == 1 else pooled
                else:
                    tokens.append(encoder(ids)[0])
        return TextCondition(torch.cat(tokens, -1), pooled)

    def encode_unconditional(self, texts: Sequence[str]) -> TextCondition:
        """Encode what guidance leads away from; an empty text is zeros where the pipeline was trained so (SDXL)."""
        condition = self.encode_text(texts)
        if self.kind != 'sdxl' or not self.pipeline.config.get('force_zeros_for_empty_prompt', False):
            return condition
        keep = torch.tensor([bool(text) for text in texts], device=condition.tokens.device)
        return TextCondition(condition.tokens * keep[:, None, None], condition.pooled * keep[:, None])

    def encode_images(self, images: Tensor) -> Tensor:
        """Return latents, ``(B, 4, H / f, W / f)`` float32: the mode of the encoder, nothing is drawn.

        Args:
            images: ``(B, 3, H, W)`` float in [0, 1], RGB.
        """
        dtype = self._vae_dtype()
        output = self.vae.encode((images * 2 - 1).to(self.device, dtype))
        latents = output.latent_dist.mode() if hasattr(output, 'latent_dist') else output.latents
        return (latents.float() - self._shift()) * self.vae.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        """Return images, ``(B, 3, H, W)`` float32 in [0, 1], RGB."""
        latents = latents / self.vae.config.scaling_factor + self._shift()
        return (self.vae.decode(latents.to(self._vae_dtype())).sample.float() / 2 + 0.5).clamp(0, 1)

    def predict(self, latents: Tensor, step: Tensor | int, condition: TextCondition) -> Tensor:
        """Return the output of the network, ``(B, 4, h, w)`` float32.

        Args:
            latents: ``(B, 4, h, w)`` float, noisy.
            step: training step, a number or ``(B,)``.
            condition: one text for each latent.
        """
        added = None
        if self.kind == 'sdxl':
            height, width = (side * self.factor for side in latents.shape[-2:])
            sizes = torch.tensor([[height, width, 0, 0, height, width]], dtype=self.dtype, device=latents.device)
            added = dict(text_embeds=condition.pooled.to(self.dtype), time_ids=sizes.expand(len(latents), -1))
        output = self.unet(
            latents.to(self.dtype), step, encoder_hidden_states=condition.tokens.to(self.dtype), added_cond_kwargs=added
        )
        return output.sample.float()

    def _vae_dtype(self) -> torch.dtype:
        return next(self.vae.parameters()).dtype

    def _shift(self) -> float:
        return self.vae.config.get('shift_factor', None) or 0.0
