"""What differs from stem to stem in effect normalisation; figures as in FxNorm-automix's ``data_normalization.py``."""

from dataclasses import dataclass

__all__ = ["StemSettings", "stem_settings"]


@dataclass(frozen=True)
class StemSettings:
    """Settings of one kind of stem.

    Attributes:
        smoothing_bins: Over how many bins of the equaliser's spectrum is averaged, odd.
        panning_limit_hz: Above it nothing is panned.
        ratio: That the search for a compressor starts with.
        attack_seconds: Of the compressor.
        release_seconds: Of the compressor.
        reverberant: Whether it gets reverb, where that is asked for.
    """

    smoothing_bins: int
    panning_limit_hz: float
    ratio: int
    attack_seconds: float
    release_seconds: float
    reverberant: bool


_OTHER = StemSettings(401, 16_000.0, 4, 0.015, 0.666, reverberant=True)

_SETTINGS = {
    "vocals": StemSettings(401, 16_000.0, 4, 0.0075, 0.4, reverberant=True),
    "drums": StemSettings(151, 6_000.0, 6, 0.01, 0.18, reverberant=False),
    "bass": StemSettings(151, 16_000.0, 5, 0.01, 0.5, reverberant=False),
    "other": _OTHER,
}


def stem_settings(stem: str) -> StemSettings:
    """Return the settings of vocals, drums or bass; stems of any other name get those of ``other``."""
    return _SETTINGS.get(stem, _OTHER)
