"""What a prior of Jukebox is told about a song: artist, genres, timing and lyrics, as ids.

A label vector is ``[total_length, offset, sample_length, artist, genres ..., lyrics ...]``: times in samples, as many
genre slots as the model has (-1: empty), and as many lyric characters (0: none). Jukebox (2020), in jukebox/data:
labels.py, artist_genre_processor.py and text_processor.py.
"""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from sonido_bench.errors import ConfigError, DataError
from sonido_bench.foundation.jukebox.prior_config import PriorConfig

__all__ = ["LabelIds", "SongLabels", "check_timing", "label_vector", "lyric_ids", "lyric_window"]

Version = Literal["v2", "v3"]

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.,:;!?-"
# v3 has no plus sign, and so one character less
_CHARACTERS = {"v2": _LETTERS + "+'\"()[] \t\n", "v3": _LETTERS + "'\"()[] \t\n"}
# What has no ASCII base letter under it but a usual spelling; a backslash is a line's end in the lyrics of the data.
_SPELLINGS = str.maketrans(
    {"\\": "\n", "\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2013": "-", "\u2014": "--",
     "\u2026": "...",
     "\u00df": "ss", "\u00e6": "ae", "\u00c6": "AE", "\u0153": "oe", "\u0152": "OE", "\u00f8": "o", "\u00d8": "O",
     "\u0142": "l", "\u0141": "L", "\u00f0": "d", "\u00d0": "D", "\u00fe": "th", "\u00de": "Th", "\u0131": "i"}
)  # fmt: skip


@dataclass(frozen=True)
class LabelIds:
    """The ids of artists and genres that a model was trained with; they are not part of this package.

    Attributes:
        version: ``v2`` (5b, 5b_lyrics, upsamplers): a genre is a bag of words. ``v3`` (1b_lyrics): it is one name.
        artists: Name, as ``version`` spells it, to id.
        genres: Likewise.
    """

    version: Version
    artists: Mapping[str, int]
    genres: Mapping[str, int]

    @classmethod
    def read(cls, artists: str | Path, genres: str | Path, version: Version) -> "LabelIds":
        """Read id files.

        Args:
            artists: OpenAI's ``*_artist_ids.txt``, lines of ``name;id``; or Hugging Face's ``artists.json``.
            genres: Likewise.
            version: Which rules they follow; of the JSON files, which of their two sets of names is taken.

        Raises:
            DataError: If a file is missing or of another form.
        """
        return cls(version, _read_ids(Path(artists), version), _read_ids(Path(genres), version))

    @classmethod
    def find(cls, folder: Path, version: Version) -> "LabelIds":
        """Read the id files of a folder, under the names that they have with OpenAI's code or Hugging Face's model.

        Raises:
            ConfigError: If they are not there.
            DataError: If one is of another form.
        """
        pairs = [(f"{version}_artist_ids.txt", f"{version}_genre_ids.txt"), ("artists.json", "genres.json")]
        for artists, genres in pairs:
            if (folder / artists).is_file() and (folder / genres).is_file():
                return cls.read(folder / artists, folder / genres, version)
        wanted = " or ".join(", ".join(pair) for pair in pairs)
        raise ConfigError(f"{folder}: expected the ids of artists and genres, {wanted}; found neither")

    def artist_id(self, name: str) -> int:
        """Return an artist's id, 0 if unknown."""
        return self.artists.get(_spelled(name, self.version), 0)

    def genre_ids(self, name: str) -> tuple[int, ...]:
        """Return the ids of a genre's words (v2) or its one id (v3); 0 where unknown."""
        spelled = _spelled(name, self.version)
        words = spelled.split("_") if self.version == "v2" else [spelled]
        return tuple(self.genres.get(word, 0) for word in words)


def _read_ids(path: Path, version: Version) -> dict[str, int]:
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":  # one file for both versions: the names of v2 end in .v2
            pairs = {str(name): int(number) for name, number in json.loads(text).items()}
            names = {name.removesuffix(".v2"): name for name in pairs if name.endswith(".v2") == (version == "v2")}
            return {short: pairs[name] for short, name in names.items()}
        lines = [line.strip().rsplit(";", 1) for line in text.splitlines() if line.strip()]
        return {name.lower(): int(number) for name, number in lines}
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise DataError(
            f"{path}: expected ids of artists or genres, lines of name;id or a JSON object ({error}); "
            "point to the files that come with Jukebox's code"
        ) from error


def _spelled(name: str, version: Version) -> str:
    """Spell a name as in the id files."""
    if version == "v3":
        return name.lower()
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def lyric_ids(text: str, version: Version) -> list[int]:
    """Return the ids of the characters of lyrics, from 1.

    Accents are taken off, and characters without an id are left out. (The original transliterates other scripts with
    the package Unidecode, which is GPL-licensed; here they are left out as well.)

    Args:
        text: Lyrics in full.
        version: Of the vocabulary.
    """
    bare = unicodedata.normalize("NFKD", text.translate(_SPELLINGS))
    ids = {character: index for index, character in enumerate(_CHARACTERS[version], start=1)}
    return [ids[character] for character in bare if character in ids]


def lyric_window(ids: Sequence[int], tokens: int, total_length: int, offset: int, length: int) -> list[int]:
    """Choose the characters that are sung around a window, as if they were spread evenly over the song.

    Args:
        ids: Of all characters.
        tokens: Wanted.
        total_length: Of the song; any unit, as the next two.
        offset: Where the window starts.
        length: Of the window.

    Returns:
        ``tokens`` ids around the window's middle; short lyrics stand behind zeros.
    """
    if len(ids) < tokens:
        return [0] * (tokens - len(ids)) + list(ids)
    half = tokens // 2
    middle = int(len(ids) * (offset + length / 2.0) / total_length)
    first = min(max(middle, half), len(ids) - half) - half
    # the original loses a character if their number is odd
    first = min(first, len(ids) - tokens)
    return list(ids[first : first + tokens])


@dataclass(frozen=True)
class SongLabels:
    """What is known of a song.

    Attributes:
        total_length: Samples of the whole song.
        artist: Id; 0 is unknown.
        genres: Ids; 0 is unknown.
        lyrics: Ids of all characters.
    """

    total_length: int
    artist: int = 0
    genres: tuple[int, ...] = (0,)
    lyrics: tuple[int, ...] = ()

    @classmethod
    def unknown(cls, seconds: float, sample_rate: int = 44_100, multiple: int = 128) -> "SongLabels":
        """Return the labels of a song of which the length alone is known.

        Args:
            seconds: Of the song.
            sample_rate: In Hz.
            multiple: The length is rounded down to a multiple of so many samples, the top level's hop.
        """
        return cls(int(seconds * sample_rate) // multiple * multiple)


def label_vector(config: PriorConfig, song: SongLabels, offset: int = 0) -> Tensor:
    """Return what a prior is told about one of its windows.

    Args:
        config: Of the prior.
        song: What is known.
        offset: Where the window starts, in samples.

    Returns:
        int64 ``(label_length,)``: times, artist, genres, lyrics.

    Raises:
        ValueError: If the prior has no labels, an id or the number of genres is out of range, or the window is not in
            the range of times that the prior knows.
    """
    labels = config.labels
    if labels is None:
        raise ValueError(f"prior {config.name} was trained without labels; give none")
    if not 0 < len(song.genres) <= labels.max_genres:
        raise ValueError(f"prior {config.name} wants 1 to {labels.max_genres} genres, got {len(song.genres)}")
    for kind, ids, number in (("artist", (song.artist,), labels.artists), ("genre", song.genres, labels.genres)):
        if not all(0 <= one < number for one in ids):
            raise ValueError(f"prior {config.name} has {kind} ids 0 to {number - 1}, got {ids}")
    genres = [*song.genres, *[-1] * (labels.max_genres - len(song.genres))]
    lyrics: list[int] = []
    if config.lyrics is not None:
        if not all(0 <= one < config.lyrics.vocabulary for one in song.lyrics):
            raise ValueError(f"prior {config.name} has lyric ids 0 to {config.lyrics.vocabulary - 1}; use lyric_ids")
        lyrics = lyric_window(song.lyrics, config.lyrics.tokens, song.total_length, offset, config.sample_length)
    vector = torch.tensor([song.total_length, offset, config.sample_length, song.artist, *genres, *lyrics])
    check_timing(config, vector[None])
    return vector


def check_timing(config: PriorConfig, vectors: Tensor) -> None:
    """Refuse label vectors whose times a prior cannot express.

    Args:
        config: Of the prior; one that is told no time accepts all.
        vectors: ``(batch, label_length)``.

    Raises:
        ValueError: If a song is too short or too long, or a window is not within it; with all times in seconds.
    """
    labels = config.labels
    if labels is None or not labels.timing_bins:
        return
    for total, offset, length in (vectors[:, :3].double() / config.sample_rate).tolist():
        if not labels.min_seconds <= total < labels.max_seconds:
            raise ValueError(
                f"prior {config.name} knows songs of {labels.min_seconds:g} s to less than {labels.max_seconds:g} s, "
                f"got one of {total:.2f} s; state a length in that range (features: 62 s, whatever the clip's)"
            )
        if not 0 <= offset < total or length < 0 or offset + length > labels.max_seconds:
            raise ValueError(
                f"prior {config.name} wants a window that starts within the song and ends before "
                f"{labels.max_seconds:g} s, got one of {length:.2f} s from {offset:.2f} s on in a song of {total:.2f} s"
            )
