"""A model folder whose sums fit whatever its files hold."""

from pathlib import Path

from sonido_bench.files import sha256_file

FILES = ("model.safetensors", "config.yaml", "README.md")


def sign(folder: Path) -> None:
    """What an attacker can do as well: sums that fit."""
    folder.joinpath("SHA256SUMS").write_text("".join(f"{sha256_file(folder / name)}  {name}\n" for name in FILES))
