"""What is left of audio in the codes of each level."""

from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

from sonido_bench.audio import read_mono, write_audio
from sonido_bench.foundation.sonido.checkpoint import load_checkpoint

__all__ = ["level_prefixes", "reconstruct"]

Level = TypeVar("Level", bound=str)


def reconstruct(checkpoint: Path, audio: Path, output: Path, device: str = "cpu") -> dict[str, Path]:
    """Write what is left of audio in the coarsest level of codes, in the coarsest two, and in all.

    Args:
        checkpoint: A folder as ``save_checkpoint`` writes it.
        audio: A file of any sample rate; its channels are averaged.
        output: Folder of the results ``<stem>.top.wav``, ``<stem>.top+mid.wav`` and so on, mono, at the model's rate
            and as long as the audio; is made when missing.
        device: To compute on.

    Returns:
        Levels, joined by ``+``, to the file.

    Raises:
        DataError: If the checkpoint or the audio cannot be read, or a result cannot be written.
    """
    model = load_checkpoint(checkpoint).to(device)
    samples = read_mono(audio, model.sample_rate)
    tokens = model.encode(samples.to(device))
    output.mkdir(parents=True, exist_ok=True)
    paths = {}
    for levels in level_prefixes(tokens):
        name = "+".join(levels)
        paths[name] = output / f"{audio.stem}.{name}.wav"
        decoded = model.decode({level: tokens[level] for level in levels})
        write_audio(paths[name], decoded[:, : samples.shape[1]], model.sample_rate)
    return paths


def level_prefixes(levels: Iterable[Level]) -> list[tuple[Level, ...]]:
    """Return the coarsest level, the coarsest two, and so on, of levels from coarse to fine."""
    names = tuple(levels)
    return [names[: count + 1] for count in range(len(names))]
