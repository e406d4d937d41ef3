"""What a rendered data set holds, in figures.

Run: python -m sonido_bench.datamodules.rendering.statistics FOLDER   (the folder of one version)
"""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from sonido_bench.datamodules.rendering.dataset import Manifest, load_manifest
from sonido_bench.datamodules.rendering.harmony import KEYS
from sonido_bench.datamodules.rendering.programs import SPLITS, TAGS
from sonido_bench.datamodules.rendering.track import Track

__all__ = ["describe"]


def describe(manifest: Manifest) -> dict[str, dict[str, Any]]:
    """Return, for each split that has tracks, JSON-able figures about its labels and its audio.

    Three figures in a list are the minimum, the median and the maximum over the tracks.
    """
    splits = {split: manifest.split(split) for split in SPLITS}
    return {split: _describe(manifest.root, tracks) for split, tracks in splits.items() if tracks}


def _describe(root: Path, tracks: list[Track]) -> dict[str, Any]:
    tags = Counter(tag for track in tracks for tag in track.families)
    keys = Counter(track.key for track in tracks)
    audio = [soundfile.read(root / track.audio)[0] for track in tracks]
    return {
        "tracks": len(tracks),
        "minutes": round(sum(track.seconds for track in tracks) / 60, 1),
        "share of tracks with tag": {tag: round(tags[tag] / len(tracks), 2) for tag in TAGS},
        "share of most frequent key": round(max(keys.values()) / len(tracks), 3),
        "keys heard": sum(keys[key] > 0 for key in KEYS),
        "share in minor": round(sum(track.mode == "minor" for track in tracks) / len(tracks), 2),
        "share in 3/4": round(sum(track.metre == 3 for track in tracks) / len(tracks), 2),
        "programs": len({(part["is_drum"], part["program"]) for track in tracks for part in track.parts}),
        "tempo (beats a minute)": _range([track.tempo for track in tracks]),
        "parts": _range([len(track.parts) for track in tracks]),
        "notes, drums left out": _range([_pitched_notes(track) for track in tracks]),
        "first onset (s)": _range([min(note[1] for note in track.notes) for track in tracks]),
        "peak": _range([float(np.abs(samples).max()) for samples in audio]),
        "RMS (dB)": _range([float(10 * np.log10(np.mean(samples**2))) for samples in audio]),
    }


def _pitched_notes(track: Track) -> int:
    return sum(not track.parts[int(note[0])]["is_drum"] for note in track.notes)


def _range(values: list[float] | list[int]) -> list[float]:
    return [round(float(np.quantile(values, share)), 3) for share in (0, 0.5, 1)]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    print(json.dumps(describe(load_manifest(parser.parse_args().folder)), indent=2))
