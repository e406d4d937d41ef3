"""A trained task model on the user's own audio: stems, a mix, tags or notes."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from sonido_bench.audio import read_audio
from sonido_bench.batches import AudioBatch
from sonido_bench.datamodules.multitrack import audio_files
from sonido_bench.datamodules.stems.audio_file import SUFFIXES, StemFile, examine
from sonido_bench.errors import ConfigError, DataError
from sonido_bench.files import atomic_path, write_json
from sonido_bench.launch.audio_stream import (
    AudioFormat,
    even_blocks,
    read_blocks,
    resample_stream,
    wav_writers,
    with_channels,
)
from sonido_bench.nn.separation import separate_stream
from sonido_bench.tasks.base import FeatureTask
from sonido_bench.tasks.mixing import MixingTask
from sonido_bench.tasks.separation import SeparationTask
from sonido_bench.tasks.tagging import TaggingTask
from sonido_bench.tasks.transcription import TranscriptionTask

__all__ = ["Progress", "predict"]

Progress = Callable[[int, int], None]
"""Called with the number of samples that are done, and of all."""

_BESIDE_STEMS = ("mixture", "downmix")
"""Names of files that may lie in a folder of stems, and are no stems."""


def predict(
    task: FeatureTask, source: Path, output: Path, progress: Progress = lambda done, samples: None
) -> list[Path]:
    """Apply a task model to a recording.

    Separation and mixing read, compute and write a chunk at a time; long recordings are cut as ``nn.separation`` does.
    Results have the sample rate and the bit depth of the input (16 bit for lossy files), and appear only when they
    are complete. Stems are mixed as they are: a network that learned from normalised stems wants normalised ones.
    Tagging and transcription hear a recording at once.

    Args:
        task: In evaluation mode, on the device to compute on.
        source: An audio file, or in mixing a folder with an audio file for each stem; absent stems are silent.
        output: A folder: it gets ``<source>/<stem>.wav`` (separation, with the channels of the input),
            ``<source>.wav`` (mixing, stereo), ``<source>.json`` (tagging) or ``<source>.mid`` (transcription).
        progress: Told how far it is.

    Returns:
        The files.

    Raises:
        ConfigError: If the source is not what the task takes, or the task is of an unknown kind.
        DataError: If the audio is empty, unreadable or not finite, or a result cannot be written.
    """
    if source.is_dir() != isinstance(task, MixingTask):
        wanted = "a folder of stems" if isinstance(task, MixingTask) else "an audio file"
        raise ConfigError(
            f"a {type(task).__name__} takes {wanted}, {source} is {'a' if source.is_dir() else 'no'} folder"
        )
    if isinstance(task, SeparationTask):
        return _separate(task, source, output, progress)
    if isinstance(task, MixingTask):
        return [_mix(task, source, output, progress)]
    if isinstance(task, TaggingTask):
        return [_tag(task, source, output)]
    if isinstance(task, TranscriptionTask):
        return [_transcribe(task, source, output)]
    raise ConfigError(f"there is no way to apply a {type(task).__name__} to a recording")


def _separate(task: SeparationTask, source: Path, output: Path, progress: Progress) -> list[Path]:
    """Write a file for each stem."""
    file, format = examine(source), AudioFormat.of(source)
    _check_channels(source, file.channels, task.channels)
    paths = {name: output / source.stem / f"{name}.wav" for name in task.sources}
    blocks = read_blocks(source, task.sample_rate, task.channels)
    samples = file.samples(task.sample_rate)
    estimates = _estimates(task, task.estimate, blocks, samples, progress)
    with wav_writers(paths, format, file.frames) as writers:
        for stems in resample_stream(estimates, task.sample_rate, format.sample_rate):
            writers.write({name: with_channels(stem, format.channels) for name, stem in zip(paths, stems, strict=True)})
    return list(paths.values())


def _mix(task: MixingTask, folder: Path, output: Path, progress: Progress) -> Path:
    """Write the mix of a folder of stems."""
    files = _stems(task, folder)
    format = AudioFormat.finest((AudioFormat.of(file.path) for file in files.values()), channels=2)
    samples = max(file.samples(task.sample_rate) for file in files.values())
    frames = max(file.samples(format.sample_rate) for file in files.values())
    path = output / f"{folder.resolve().name}.wav"
    streams = [_stem_blocks(task, files.get(name), task.chunking.stride, samples) for name in task.stems]
    blocks = (torch.cat(stems) for stems in zip(*streams, strict=True))
    estimates = _estimates(task, partial(_mixed, task), blocks, samples, progress)
    with wav_writers({"mix": path}, format, frames) as writers:
        for mixes in resample_stream(estimates, task.sample_rate, format.sample_rate):
            writers.write({"mix": mixes[0]})
    return path


def _stems(task: MixingTask, folder: Path) -> dict[str, StemFile]:
    """Examine the stems of a folder."""
    found = {name: path for name, path in audio_files(folder).items() if name not in _BESIDE_STEMS}
    expected = ", ".join(task.stems)
    if unknown := sorted(found.keys() - set(task.stems)):
        raise DataError(
            f"{folder}: expected stems named {expected}, found {found[unknown[0]].name}; rename or remove it"
        )
    if not found:
        raise DataError(f"{folder}: expected an audio file for each of {expected}, found none ({', '.join(SUFFIXES)})")
    files = {name: examine(path) for name, path in found.items()}
    for file in files.values():
        _check_channels(file.path, file.channels, 2)
    return files


def _stem_blocks(task: MixingTask, file: StemFile | None, length: int, samples: int) -> Iterator[Tensor]:
    """Yield the stereo blocks of a stem; silence if there is none."""
    blocks = iter([torch.zeros(2, 0)]) if file is None else read_blocks(file.path, task.sample_rate, 2)
    return even_blocks(blocks, length, samples)


def _mixed(task: MixingTask, stems: Tensor) -> Tensor:
    """Mix ``(1, 2 * stems, samples)`` to ``(1, 1, 2, samples)``."""
    return task.estimate(stems.reshape(1, -1, 2, stems.shape[-1]))[:, None]


def _estimates(
    task: SeparationTask | MixingTask,
    estimate: Callable[[Tensor], Tensor],
    blocks: Iterable[Tensor],
    samples: int,
    progress: Progress,
) -> Iterator[Tensor]:
    """Yield what a task makes of a recording: at once if it is no longer than a chunk, else chunk by chunk.

    Args:
        task: Says how to cut.
        estimate: The task's, ``(1, channels, samples)`` to ``(1, sources, channels, samples)``.
        blocks: The recording.
        samples: Its length.
        progress: Told how far it is.
    """
    chunking = task.chunking
    if samples > chunking.samples:
        yield from separate_stream(estimate, blocks, chunking, task.device, lambda done: progress(done, samples))
        return
    whole = torch.cat([*blocks], dim=-1)
    # A spectrogram needs a few frames: below a second, silence follows.
    padded = F.pad(whole, (0, max(0, min(chunking.samples, task.sample_rate) - samples)))
    yield estimate(padded[None].to(task.device))[0, ..., :samples].cpu()
    progress(samples, samples)


@torch.no_grad()
def _tag(task: TaggingTask, source: Path, output: Path) -> Path:
    """Write every class or output with its probability or value, the highest first."""
    tags = task.predict_step({**_batch(task, source), "target": torch.zeros(0)}, 0)[source.name]
    path = output / f"{source.stem}.json"
    write_json(path, dict(sorted(tags.items(), key=lambda tag: -tag[1])), indent=2)
    return path


@torch.no_grad()
def _transcribe(task: TranscriptionTask, source: Path, output: Path) -> Path:
    """Write the notes as a MIDI file."""
    import pretty_midi

    notes = task.predict_step({**_batch(task, source), "notes": []}, 0)[source.name]
    midi, piano = pretty_midi.PrettyMIDI(), pretty_midi.Instrument(program=0)
    for onset, offset, pitch, velocity in notes.tolist():
        piano.notes.append(pretty_midi.Note(round(velocity), round(pitch), onset, offset))
    midi.instruments.append(piano)
    path = output / f"{source.stem}.mid"
    with atomic_path(path) as temporary:
        midi.write(str(temporary))
    return path


def _batch(task: FeatureTask, source: Path) -> AudioBatch:
    """Return a recording as a batch of one."""
    audio, rate = read_audio(source)
    batch = AudioBatch(clip=[source.name], seconds=audio.shape[1] / rate, sample_rate=rate)
    batch["audio"] = audio[None].to(task.device)
    return batch


def _check_channels(path: Path, found: int, wanted: int) -> None:
    """Refuse channels that neither fit nor can be averaged or repeated."""
    if found not in (1, wanted) and wanted != 1:
        raise DataError(f"{path}: expected 1 or {wanted} channels, found {found}; mix it down first")
