"""What is left of audio in the codes of the codec's codebooks."""

from pathlib import Path

from sonido_bench.audio import read_mono, write_audio
from sonido_bench.foundation.codec.checkpoint import load_checkpoint

__all__ = ["reconstruct"]


def reconstruct(checkpoint: Path, audio: Path, output: Path, device: str = "cpu") -> dict[str, Path]:
    """Write what is left of audio in the codes of the first codebook, of the first two, and of all.

    Args:
        checkpoint: A folder as ``save_checkpoint`` writes it.
        audio: A file of any sample rate; its channels are averaged.
        output: Folder of the results ``<stem>.1.wav``, ``<stem>.1+2.wav`` and so on, mono, at the model's rate and as
            long as the audio; is made when missing.
        device: To compute on.

    Returns:
        Numbers of the codebooks, joined by ``+``, to the file.

    Raises:
        DataError: If the checkpoint or the audio cannot be read, or a result cannot be written.
    """
    model = load_checkpoint(checkpoint).to(device)
    samples = read_mono(audio, model.sample_rate)
    codes = model.encode(samples.to(device))
    output.mkdir(parents=True, exist_ok=True)
    paths = {}
    for count in range(1, model.codec.codebooks + 1):
        name = "+".join(str(number) for number in range(1, count + 1))
        paths[name] = output / f"{audio.stem}.{name}.wav"
        write_audio(paths[name], model.decode(codes, count)[:, : samples.shape[1]], model.sample_rate)
    return paths
