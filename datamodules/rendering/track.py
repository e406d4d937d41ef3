"""One track: composed, played, mixed and written, together with all that is known about it."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from sonido_bench.datamodules.rendering.composition import Composition, compose
from sonido_bench.datamodules.rendering.harmony import KEYS
from sonido_bench.datamodules.rendering.mixing import Mix, draw_mix
from sonido_bench.datamodules.rendering.programs import SPLITS, Split
from sonido_bench.datamodules.rendering.synthesis import SAMPLE_RATE, find_soundfont, play
from sonido_bench.errors import DataError
from sonido_bench.files import atomic_path, sha256_file, write_json

__all__ = ["MAX_DATA_SEED", "MAX_TRACKS", "Track", "TrackJob", "load_track", "render_job", "track_seed"]

MAX_TRACKS = 2**24
"""Tracks that a split may have; below this, seeds of two splits, or of two data sets, never meet."""
MAX_DATA_SEED = 2**26

_MIX_STREAM = 1  # of a track's seed; stream 0 is the composer's
_MIDI_RESOLUTION = 960  # ticks a beat: at most half a millisecond off at 60 beats per minute
_MUSDB_STEMS = ("vocals", "drums", "bass", "other")
_MUSDB_ROLES = {"melody": "vocals", "drums": "drums", "bass": "bass"}


@dataclass(frozen=True)
class TrackJob:
    """What to render and where.

    Attributes:
        root: Folder of the data set's version.
        name: The track's name.
        split: Its split.
        seed: Decides everything that is heard.
        seconds: Length of the track.
        stems: Whether to write stems besides the mix.
        soundfont: Path of the soundfont, or ``None`` for the one in pretty_midi's wheel.
    """

    root: Path
    name: str
    split: Split
    seed: int
    seconds: float
    stems: bool
    soundfont: str | None

    @property
    def label(self) -> str:
        """What a progress bar shows."""
        return self.name

    def __call__(self) -> None:
        """Render the track, unless it is there already."""
        render_job(self)


@dataclass(frozen=True)
class Track:
    """A row of the manifest; all its values are JSON-able.

    Attributes:
        name: The track's name, unique in the data set.
        split: ``train``, ``validation``, ``test`` or ``pretrain``.
        seed: What it was made from.
        seconds: Its length.
        sample_rate: In Hz.
        key: As mir_eval.key writes it, for example ``F# minor``.
        mode: ``major`` or ``minor``.
        tempo: In beats per minute.
        metre: Beats of a bar.
        families: Instrument tags.
        parts: Per part ``role``, ``program``, ``family``, ``is_drum``.
        mix: Parameters of ``Mix``: its channels are the parts', in order.
        notes: Rows ``[part, onset, offset, pitch, velocity]``, times in seconds.
        audio: The mix, relative to the root.
        midi: The notes as a MIDI file, relative to the root.
        files: Every file of the track, relative to the root, and its SHA-256.
    """

    name: str
    split: Split
    seed: int
    seconds: float
    sample_rate: int
    key: str
    mode: str
    tempo: float
    metre: int
    families: list[str]
    parts: list[dict[str, Any]]
    mix: dict[str, Any]
    notes: list[list[float]]
    audio: str
    midi: str
    files: dict[str, str]


def track_seed(data_seed: int, split: Split, index: int) -> int:
    """Return the seed of a track: an interval of its own for every data seed and split, so that none meet.

    Raises:
        ValueError: If ``data_seed`` or ``index`` leaves its range.
    """
    if not (0 <= data_seed < MAX_DATA_SEED and 0 <= index < MAX_TRACKS):
        raise ValueError(
            f"expected 0 <= data_seed < {MAX_DATA_SEED} and 0 <= index < {MAX_TRACKS}, got {data_seed}, {index}"
        )
    return (data_seed * len(SPLITS) + SPLITS.index(split)) * MAX_TRACKS + index


def load_track(root: Path, name: str) -> Track | None:
    """Return a track that was rendered, or ``None`` if its row or one of its files is missing.

    Raises:
        DataError: If the row is not what this version writes.
    """
    path = _row_path(root, name)
    try:
        track = Track(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError) as error:
        raise DataError(f"{path} is damaged: {error}; delete it and prepare the data again") from error
    return track if all((root / file).is_file() for file in track.files) else None


def render_job(job: TrackJob) -> Track:
    """Render one track, unless it is there already; the same job gives the same bytes in any process.

    The row is written last: a track that was interrupted is rendered again.

    Raises:
        DataError: If the synthesiser or the soundfont is missing, or a file cannot be written.
    """
    done = load_track(job.root, job.name)
    if done is not None:
        return done
    soundfont = find_soundfont(job.soundfont)
    composition = compose(job.seed, job.split, job.seconds)
    dry = [play(part, job.seconds, soundfont) for part in composition.parts]
    roles = [part.role for part in composition.parts]
    rng = np.random.default_rng(np.random.SeedSequence(job.seed, spawn_key=(_MIX_STREAM,)))
    mix, mixture = draw_mix(dry, roles, SAMPLE_RATE, rng)
    audio, midi = f"{job.split}/{job.name}.flac", f"{job.split}/{job.name}.midi"
    try:
        _write_audio(job.root / audio, mixture)
        _write_midi(job.root / midi, composition)
        written = [audio, midi]
        if job.stems:
            written += _write_stems(job, roles, dry, mix, mixture)
        files = {file: sha256_file(job.root / file) for file in written}
        track = _describe(job, composition, mix, audio, midi, files)
        write_json(_row_path(job.root, job.name), asdict(track))
    except (OSError, soundfile.SoundFileError) as error:
        raise DataError(
            f"cannot write track {job.name} to {job.root}: {error}; free some space, or choose another root"
        ) from error
    return track


def _row_path(root: Path, name: str) -> Path:
    return root / "rows" / f"{name}.json"


def _describe(job: TrackJob, composition: Composition, mix: Mix, audio: str, midi: str, files: dict[str, str]) -> Track:
    parts = composition.parts
    return Track(
        name=job.name,
        split=job.split,
        seed=job.seed,
        seconds=job.seconds,
        sample_rate=SAMPLE_RATE,
        key=composition.key,
        mode=composition.mode,
        tempo=composition.tempo,
        metre=composition.metre,
        families=list(composition.families),
        parts=[
            {"role": part.role, "program": part.program, "family": part.family, "is_drum": part.is_drum}
            for part in parts
        ],
        mix=mix.as_dict(),
        notes=[
            [index, note.onset, note.offset, note.pitch, note.velocity]
            for index, part in enumerate(parts)
            for note in part.notes
        ],
        audio=audio,
        midi=midi,
        files=files,
    )


def _write_audio(path: Path, audio: np.ndarray, bits: int = 16) -> None:
    # Rounded here: libsndfile rounds floats downwards into WAV and to the nearest into FLAC.
    full_scale = 2 ** (bits - 1)
    levels = np.rint(np.clip(audio.T * np.float64(full_scale), -full_scale, full_scale - 1)).astype(np.int32)
    with atomic_path(path) as temporary:
        soundfile.write(temporary, levels << (32 - bits), SAMPLE_RATE, subtype=f"PCM_{bits}")


def _write_midi(path: Path, composition: Composition) -> None:
    import pretty_midi  # lazy: a slow import

    midi = pretty_midi.PrettyMIDI(resolution=_MIDI_RESOLUTION, initial_tempo=composition.tempo)
    midi.time_signature_changes.append(pretty_midi.TimeSignature(composition.metre, 4, 0))
    midi.key_signature_changes.append(pretty_midi.KeySignature(KEYS.index(composition.key), 0))
    for part in composition.parts:
        instrument = pretty_midi.Instrument(part.program, part.is_drum, part.role)
        instrument.notes = [pretty_midi.Note(note.velocity, note.pitch, note.onset, note.offset) for note in part.notes]
        midi.instruments.append(instrument)
    with atomic_path(path) as temporary:
        midi.write(str(temporary))


def _write_stems(
    job: TrackJob, roles: Sequence[str], dry: Sequence[np.ndarray], mix: Mix, mixture: np.ndarray
) -> list[str]:
    """Write dry stems, and the wet ones as MUSDB18-HQ does: the melody sings the vocals."""
    split = "test" if job.split == "test" else "train"
    folder = f"musdb18hq/{split}/Rendered - {job.name}"
    stems = {stem: np.zeros_like(mixture) for stem in _MUSDB_STEMS}
    for role, wet in zip(roles, mix.wet_stems(dry, SAMPLE_RATE), strict=True):
        stems[_MUSDB_ROLES.get(role, "other")] += wet
    written = {f"{folder}/{stem}.wav": (audio, 16) for stem, audio in {"mixture": mixture, **stems}.items()}
    # Not float: libsndfile stamps the time into float WAV files, which would make every copy differ.
    written |= {f"dry/{job.name}/{role}.wav": (stem, 24) for role, stem in zip(roles, dry, strict=True)}
    for file, (audio, bits) in written.items():
        _write_audio(job.root / file, audio, bits)
    return list(written)
