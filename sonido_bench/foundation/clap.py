"""Embeddings of audio and text in one space, from a CLAP model of the ``transformers`` library."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sonido_bench.errors import ConfigError

__all__ = ["ClapEmbedding"]


class ClapEmbedding(nn.Module):
    """A frozen CLAP model (Wu et al. 2023, LAION-CLAP).

    It hears 10 s at a time. Shorter audio is repeated to that length, as in its training; of longer audio, windows
    side by side are embedded, the last one ending where the audio ends, and their embeddings averaged.

    Args:
        path_or_name: A folder with model, feature extractor and tokenizer, or a name that ``transformers`` finds,
            such as ``laion/larger_clap_music``.

    Attributes:
        sample_rate: Of the audio that it wants, in Hz.
        dim: Width of an embedding.

    Raises:
        ConfigError: If ``transformers`` is missing, or there is no CLAP model at ``path_or_name``.
    """

    def __init__(self, path_or_name: str | Path) -> None:
        super().__init__()
        try:
            transformers: Any = importlib.import_module("transformers")
        except ImportError as error:
            raise ConfigError("CLAP embeddings need transformers: pip install transformers") from error
        name = str(path_or_name)
        try:
            self.model: Any = transformers.ClapModel.from_pretrained(name)
            self._extractor: Any = transformers.ClapFeatureExtractor.from_pretrained(name)
            self._tokenizer: Any = transformers.AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(
                f"{name}: expected a CLAP model with feature extractor and tokenizer: {reason}"
            ) from error
        self.model.eval().requires_grad_(False)
        self.sample_rate = int(self._extractor.sampling_rate)
        self.dim = int(self.model.config.projection_dim)

    @torch.no_grad()
    def forward(self, audio: Tensor) -> Tensor:
        """Embed mono audio.

        Args:
            audio: ``(batch, samples)`` at ``sample_rate`` Hz in [-1, 1], any length above zero.

        Returns:
            ``(batch, dim)`` float32 of norm 1.

        Raises:
            ValueError: If the audio has another shape.
        """
        if audio.ndim != 2 or audio.shape[1] == 0:
            raise ValueError(f"expected audio of shape (batch, samples), got {tuple(audio.shape)}")
        windows = _windows(audio, int(self._extractor.nb_max_samples)).flatten(0, 1).cpu().numpy()
        inputs = self._extractor(list(windows), sampling_rate=self.sample_rate, return_tensors="pt")
        # The extractor marks a random item as longer than a window, which models with feature fusion then treat
        # differently: none is.
        embedded = self.model.get_audio_features(
            input_features=inputs["input_features"].to(self.model.device),
            is_longer=torch.zeros(len(windows), 1, dtype=torch.bool, device=self.model.device),
        )
        return F.normalize(torch.unflatten(_pooled(embedded), 0, (len(audio), -1)).mean(dim=1), dim=-1)

    @torch.no_grad()
    def text(self, prompts: Sequence[str]) -> Tensor:
        """Embed descriptions of audio.

        Args:
            prompts: One at least.

        Returns:
            ``(prompts, dim)`` float32 of norm 1, comparable with those of audio.

        Raises:
            ValueError: If there is no prompt.
        """
        if not prompts or isinstance(prompts, str):
            raise ValueError(f"expected a list of one prompt or more, got {prompts!r}")
        inputs = self._tokenizer(list(prompts), padding=True, truncation=True, return_tensors="pt")
        embedded = self.model.get_text_features(
            input_ids=inputs["input_ids"].to(self.model.device),
            attention_mask=inputs["attention_mask"].to(self.model.device),
        )
        return F.normalize(_pooled(embedded), dim=-1)


def _pooled(embedded: Any) -> Tensor:
    """Return the embedding: version 4 of the library gives it itself, version 5 within an output."""
    pooled: Tensor = getattr(embedded, "pooler_output", embedded)
    return pooled.float()


def _windows(audio: Tensor, length: int) -> Tensor:
    """Cut ``(batch, samples)`` into ``(batch, windows, length)``; what is shorter than a window stays as it is."""
    samples = audio.shape[1]
    starts = range(0, max(samples - length, 0) + 1, length)
    last = [samples - length] if samples > length and samples % length else []
    return torch.stack([audio[:, start : start + length] for start in (*starts, *last)], dim=1)
