"""Training of the codec."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sonido_bench.errors import ConfigError
from sonido_bench.foundation.audio_phase import AudioTraining
from sonido_bench.foundation.codec.balancer import Balancer
from sonido_bench.foundation.codec.discriminator import (
    MultiScaleSTFTDiscriminator,
    adversarial_loss,
    discriminator_loss,
    feature_loss,
)
from sonido_bench.foundation.codec.independence import Estimator
from sonido_bench.foundation.codec.loss import MultiScaleMelLoss
from sonido_bench.foundation.codec.model import Codec, CodecOutput
from sonido_bench.foundation.codec.streams import StreamVariant
from sonido_bench.foundation.phase import CLIP_NORM, Phase
from sonido_bench.foundation.sonido.objective import si_snr

__all__ = ["AdversaryConfig", "CodecStage", "CodecTraining", "IndependenceConfig"]


@dataclass(frozen=True)
class CodecTraining(AudioTraining):
    """How the codec is trained; weights and Adam's betas are those of MusicGen's tokenizer.

    Attributes:
        learning_rate: At its highest.
        weight_decay: None: it would only change the scale of normalised weights.
        segment_seconds: Length of an item, rounded to whole frames.
        betas: Of Adam.
        l1_weight: Of the mean absolute difference of samples, as a share in the balancer.
        mel_weight: Of the multi-scale mel loss, likewise.
        mel_windows: Of that loss, in samples; only long ones tell the pitch of low notes.
        num_mels: Bands of its scales, at most.
        adversarial_weight: Of the adversarial loss, likewise.
        feature_weight: Of the discriminator's features, likewise.
        adversary_start: Step from which the codec has those two losses; the discriminator learns from the first on.
        commitment_weight: Of the codebooks' mean commitment, outside the balancer.
    """

    learning_rate: float = 3e-4
    weight_decay: float = 0.0
    segment_seconds: float = 1.0
    betas: tuple[float, float] = (0.5, 0.9)
    l1_weight: float = 0.1
    mel_weight: float = 2.0
    mel_windows: tuple[int, ...] = (64, 128, 256, 512, 1024)
    num_mels: int = 64
    adversarial_weight: float = 4.0
    feature_weight: float = 4.0
    adversary_start: int = 0
    commitment_weight: float = 1.0

    def __post_init__(self) -> None:
        """Refuse negative steps and weights."""
        super().__post_init__()
        if self.adversary_start < 0:
            raise ConfigError(f"codec: adversary_start must not be below 0, got {self.adversary_start}")
        weights = (self.l1_weight, self.mel_weight, self.adversarial_weight, self.feature_weight)
        if min(*weights, self.commitment_weight) < 0 or self.l1_weight + self.mel_weight == 0:
            raise ConfigError("codec: weights must not be negative, and one of l1 and mel must be positive")
        if min(self.mel_windows, default=0) < 8 or self.num_mels < 1:
            raise ConfigError(f"codec: expected mel_windows of 8 samples or more and num_mels of 1 or more, "
                              f"got {self.mel_windows} and {self.num_mels}")  # fmt: skip


@dataclass(frozen=True)
class AdversaryConfig:
    """A discriminator for the codec; see ``MultiScaleSTFTDiscriminator``.

    Attributes:
        n_ffts: Of the spectrograms that it judges.
        filters: Channels of its layers.
    """

    n_ffts: tuple[int, ...] = (1024, 2048, 512, 256, 128)
    filters: int = 32

    def __post_init__(self) -> None:
        """Refuse a discriminator of nothing."""
        if not self.n_ffts or min(*self.n_ffts, self.filters) < 1:
            raise ConfigError(f"adversary: expected positive n_ffts and filters, got {self.n_ffts}, {self.filters}")


@dataclass(frozen=True)
class IndependenceConfig:
    """The independence loss of a codec, see ``IndependenceLoss`` and ``CodecStage``.

    Attributes:
        weight: Of the loss, in full.
        start: Step from which it acts.
        ramp: Steps from there on in which its weight rises linearly from 0.
        stream: What of the codebooks is compared.
        estimator: Of their dependence.
        delays: Frames by which each codebook is shifted, as by the pattern of the language model; ``None``: none.
    """

    weight: float = 1.0
    start: int = 0
    ramp: int = 0
    stream: StreamVariant = "post"
    estimator: Estimator = "dhsic"
    delays: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Refuse what is below 0."""
        if min(self.weight, self.start, self.ramp, *(self.delays or ())) < 0:
            raise ConfigError("independence: weight, start, ramp and delays must not be below 0")


class CodecStage(Phase):
    """The codec in training, from the start or on from a trained one.

    Reconstruction and adversary pass a balancer; the commitment and the independence loss stand beside it. Codec and
    discriminator take their steps at the same time from one backward pass: neither sees the other's gradient.

    Args:
        model: The codec; codes that were started from data are not started again.
        config: How to train.
        seed: Of the noise.
        discriminator: ``None``: no adversary.
        independence: Maps a stream ``(batch, codebooks, dim, frames)`` to a scalar that falls as the codebooks become
            independent; ``None``: no such loss. Its noise, if any, comes from torch's own generator.
        independence_weight: Of it, in full.
        independence_start: Step from which it acts.
        independence_ramp: Steps from there on in which its weight rises linearly from 0; 0: at once.
        stream: What it is given, see ``Quantized``.

    Raises:
        ConfigError: If the independence loss's weight, start or ramp is negative.
    """

    model: Codec
    config: CodecTraining

    def __init__(
        self,
        model: Codec,
        config: CodecTraining,
        seed: int = 0,
        *,
        discriminator: MultiScaleSTFTDiscriminator | None = None,
        independence: Callable[[Tensor], Tensor] | None = None,
        independence_weight: float = 1.0,
        independence_start: int = 0,
        independence_ramp: int = 0,
        stream: StreamVariant = "post",
    ) -> None:
        super().__init__(model, config, seed)
        self.betas = config.betas
        if min(independence_weight, independence_start, independence_ramp) < 0:
            raise ConfigError("codec: independence_weight, independence_start and independence_ramp must not be < 0")
        self.discriminator = discriminator
        self.independence = independence
        self.independence_weight, self.independence_start = independence_weight, independence_start
        self.independence_ramp, self.stream = independence_ramp, stream
        weights = {"l1": config.l1_weight, "mel": config.mel_weight}
        if discriminator is not None:
            weights |= {"adversarial": config.adversarial_weight, "feature": config.feature_weight}
        self.balancer = Balancer(weights)
        self.mel_loss = MultiScaleMelLoss(model.sample_rate, config.num_mels, windows=config.mel_windows)
        self.train()  # Lightning keeps the modes it finds, and codes of a loaded codec, in inference, would not learn

    def independence_factor(self, step: int) -> float:
        """Return the weight of the independence loss at a step."""
        since = step + 1 - self.independence_start
        if since <= 0:
            return 0.0
        return self.independence_weight * min(1.0, since / max(1, self.independence_ramp))

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Return the loss of a batch ``(batch, samples)``; its value means nothing, its parts are logged."""
        output: CodecOutput = self.model(batch)
        losses = self._reconstruction(batch, output.audio)
        metrics: dict[str, Tensor | float] = {}
        rest = output.quantized.commitment.mean() * self.config.commitment_weight
        if self.discriminator is not None:
            adversary, adversarial = self._adversary(self.discriminator, batch, output.audio)
            losses, rest, metrics["discriminator"] = losses | adversarial, rest + adversary, adversary
        rest = rest + self._independence(output, metrics)
        weighed = {name: loss for name, loss in losses.items() if name in self.balancer.weights}
        balanced, norms = self.balancer(weighed, output.audio)
        metrics |= {f"gradient_{name}": norm for name, norm in norms.items()}
        self._log("train", {**losses, **metrics, **self._health(output)}, len(batch))
        return self._checked(balanced + rest)

    def validation_step(self, batch: Tensor, batch_idx: int) -> None:
        """Log how well a batch is reconstructed; ``loss`` is the weighted sum without the adversary."""
        output: CodecOutput = self.model(batch)
        losses = self._reconstruction(batch, output.audio)
        loss = self.config.l1_weight * losses["l1"] + self.config.mel_weight * losses["mel"]
        loss = loss + self.config.commitment_weight * output.quantized.commitment.mean()
        metrics = {"loss": loss, "si_snr": si_snr(batch, output.audio), **losses}
        self._log("val", {**metrics, **self._health(output)}, len(batch))

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the norms of the codec's and of the discriminator's gradients to 1, each for itself."""
        for network in (self.model, self.discriminator):
            if network is not None:
                nn.utils.clip_grad_norm_(network.parameters(), CLIP_NORM)

    def _reconstruction(self, audio: Tensor, estimate: Tensor) -> dict[str, Tensor]:
        return {"l1": F.l1_loss(estimate, audio), "mel": self.mel_loss(audio, estimate)}

    def _adversary(
        self, discriminator: MultiScaleSTFTDiscriminator, audio: Tensor, estimate: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the discriminator's own loss, and what it costs the codec once that has begun."""
        real = discriminator(audio)
        own = discriminator_loss(real, discriminator(estimate.detach()))
        if self.global_step < self.config.adversary_start:
            return own, {}
        fake = discriminator(estimate)
        return own, {"adversarial": adversarial_loss(fake), "feature": feature_loss(real, fake)}

    def _independence(self, output: CodecOutput, metrics: dict[str, Tensor | float]) -> Tensor:
        """Return the weighted independence loss, and note what it is; from before it acts, so that one sees it fall."""
        if self.independence is None:
            return output.audio.new_zeros(())
        factor = self.independence_factor(self.global_step)
        with torch.set_grad_enabled(factor > 0):
            statistic = self.independence(getattr(output.quantized, self.stream))
        metrics |= {"independence": statistic, "independence_weight": factor}
        return factor * statistic

    def _health(self, output: CodecOutput) -> dict[str, Tensor]:
        with torch.no_grad():
            figures = self.model.quantizer.metrics(output.quantized.codes)
            commitment = output.quantized.commitment.mean()
            return {**figures, "commitment": commitment}
