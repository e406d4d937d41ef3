"""``fit``, ``validate`` and ``test`` through LightningCLI: every constructor argument is an option."""

from collections.abc import Sequence

import lightning.pytorch as pl
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

import sonido_bench.datamodules.rendered
import sonido_bench.foundation.chroma
import sonido_bench.foundation.convnet
import sonido_bench.foundation.logmel  # noqa: F401  imported classes can be named without their module
from sonido_bench.tasks.base import FeatureTask

__all__ = ["run_lightning"]


class SonidoCLI(LightningCLI):
    """LightningCLI over the tasks and data modules; the data set's target follows from the task."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Let the task decide the data set's target."""
        parser.link_arguments("model", "data.init_args.target", lambda task: task.target, apply_on="instantiate")


def run_lightning(arguments: Sequence[str]) -> None:
    """Run a subcommand of LightningCLI.

    Args:
        arguments: For example ``["fit", "--config", "configs/tasks/key.yaml"]``.

    Raises:
        SystemExit: With code 2 if an option is unknown or has a wrong type.
    """
    SonidoCLI(
        FeatureTask,
        pl.LightningDataModule,
        subclass_mode_model=True,
        subclass_mode_data=True,
        seed_everything_default=0,
        args=list(arguments),
    )
