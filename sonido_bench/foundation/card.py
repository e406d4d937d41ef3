"""What a checkpoint's maker tells about it: data that is stored beside the weights, and the text made of it."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sonido_bench.errors import DataError

__all__ = ["ModelCard", "Row", "card_from_dict", "render_card"]

Row = Mapping[str, str | float]
"""A row of a table: column to value. All rows of a table have the same columns."""


@dataclass(frozen=True)
class ModelCard:
    """A model card. Texts are Markdown.

    Attributes:
        name: Of the model, as on the leaderboard.
        description: One sentence.
        licence: SPDX identifier of the weights.
        citation: What to cite.
        command: The exact command that made the weights.
        data: What they were trained on, and what was kept from it.
        seeds: What each seed decides.
        steps: Optimiser steps of each part.
        hardware: What it ran on, and for how long.
        curves: Losses on validation data over the training.
        gate: Figures of the probes that stage 1 had to pass.
        levels: How each level of stage 1 uses its codes, and what it adds to the reconstruction.
        limits: What it cannot do.
        differences: From the paper.
    """

    name: str
    description: str
    licence: str
    citation: str
    command: str
    data: str
    seeds: Mapping[str, int]
    steps: Mapping[str, int]
    hardware: str
    curves: tuple[Row, ...] = ()
    gate: tuple[Row, ...] = ()
    levels: tuple[Row, ...] = ()
    limits: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, from which ``card_from_dict`` makes an equal card."""
        plain = asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}


_LISTS = ("curves", "gate", "levels", "limits", "differences")


def card_from_dict(values: Mapping[str, Any], source: str) -> ModelCard:
    """Make a card of plain values.

    Args:
        values: As ``ModelCard.as_dict`` gives them.
        source: Named in errors.

    Raises:
        DataError: If a field is missing, unknown, or of another type.
    """
    try:
        fields: dict[str, Any] = {n: tuple(value) if n in _LISTS else value for n, value in values.items()}
        card = ModelCard(**fields)
    except TypeError as error:
        raise DataError(f"{source}: expected the fields of a model card, found others: {error}") from error
    texts = (card.name, card.description, card.licence, card.citation, card.command, card.data, card.hardware)
    tables = (card.seeds, card.steps, *card.curves, *card.gate, *card.levels)
    if not all(isinstance(text, str) for text in texts) or not all(isinstance(table, Mapping) for table in tables):
        raise DataError(f"{source}: a field of the model card has the wrong type")
    return card


def render_card(card: ModelCard) -> str:
    """Return the card as Markdown."""
    sections = {
        "Made by": f"```sh\n{card.command.strip()}\n```",
        "Data": card.data,
        "Seeds": _listing(card.seeds),
        "Steps": _listing(card.steps),
        "Hardware": card.hardware,
        "Validation curves": _table(card.curves),
        "Gate of stage 1": _table(card.gate),
        "Levels of stage 1": _table(card.levels),
        "Limits": _bullets(card.limits),
        "Differences from the paper": _bullets(card.differences),
        "Licence and citation": f"Weights: {card.licence}. {card.citation}",
    }
    parts = [f"# {card.name}", card.description]
    parts += [f"## {title}\n\n{text.strip()}" for title, text in sections.items() if text.strip()]
    return "\n\n".join(parts) + "\n"


def _listing(values: Mapping[str, int]) -> str:
    return "\n".join(f"- {name}: {value:,}" for name, value in values.items())


def _bullets(lines: tuple[str, ...]) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _table(rows: tuple[Row, ...]) -> str:
    if not rows:
        return ""
    columns = list(rows[0])
    lines = [columns, ["---"] * len(columns), *([_cell(row.get(column, "")) for column in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: str | float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
