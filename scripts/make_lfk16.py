"""Make the shipped k-means codebooks of ``lfk16`` from rendered music that no benchmark uses.

python scripts/make_lfk16.py --root data/pretraining --seed 7
"""

import argparse
from pathlib import Path

import torch

from sonido_bench.audio import read_clip, to_mono
from sonido_bench.datamodules.recordings import RenderedAudio, RenderedAudioConfig
from sonido_bench.foundation.log_frequency_kmeans import LFK16, fit_lfk16

BATCH = 16


def main() -> None:
    """Read tracks of the split ``pretrain``, rendering what is missing, and cluster their patches."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, required=True, help="folder of the rendered data set")
    parser.add_argument("--seed", type=int, default=0, help="of the data set, and of the clustering")
    parser.add_argument("--tracks", type=int, default=4000, help="of the data set (default: %(default)s)")
    parser.add_argument("--fit-tracks", type=int, default=400, help="that are read, the first (default: %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("sonido_bench/checkpoints/lfk16"))
    arguments = parser.parse_args()
    source = RenderedAudio(RenderedAudioConfig(str(arguments.root), arguments.seed, tracks=arguments.tracks))
    names = source.training[: arguments.fit_tracks]
    clips = [to_mono(read_clip(source.clip(name), 22_050)) for name in names]
    audio = torch.stack([clip[: len(clip) // 1024 * 1024] for clip in clips])
    fit_lfk16(arguments.output, audio.split(BATCH), torch.Generator().manual_seed(arguments.seed))
    print(f"{arguments.output}: {LFK16(arguments.output).fingerprint()}")


if __name__ == "__main__":
    main()
