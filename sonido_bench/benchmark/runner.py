"""One experiment, from its configuration to its result file."""

from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl

from sonido_bench.benchmark.config import BenchmarkConfig, config_hash
from sonido_bench.benchmark.environment import describe_environment
from sonido_bench.benchmark.example_audio import save_recordings
from sonido_bench.benchmark.experiment import Experiment
from sonido_bench.benchmark.history import History
from sonido_bench.benchmark.instantiate import arm_extractor, build_data, build_task
from sonido_bench.benchmark.meter import Meter
from sonido_bench.benchmark.results import Items, Parameters, Result, save_result
from sonido_bench.benchmark.tracking import make_tracker
from sonido_bench.benchmark.training import attach_features, train
from sonido_bench.benchmark.workspace import Workspace
from sonido_bench.features.cache import FeatureCache
from sonido_bench.metrics.items import TestItems

__all__ = ["RunJob", "count_parameters", "expected_config"]


def expected_config(
    config: BenchmarkConfig, experiment: Experiment, data_sha256: str, extractor: str | None
) -> dict[str, Any]:
    """Return everything that decides the outcome of an experiment, to be hashed and stored with its result.

    Args:
        config: The benchmark.
        experiment: One cell of its grid.
        data_sha256: Hash of the data set's manifest.
        extractor: Fingerprint of the frozen model, ``None`` in the baseline.
    """
    return {**config.experiment_config(experiment), "data_sha256": data_sha256, "extractor_sha256": extractor}


@dataclass(frozen=True)
class RunJob:
    """Train, test and record one experiment; it can be pickled and called in any process."""

    config: BenchmarkConfig
    experiment: Experiment
    workspace: Workspace
    wandb: str = "disabled"

    @property
    def label(self) -> str:
        """What the progress bar shows."""
        return self.experiment.slug

    def __call__(self) -> None:
        """Run the experiment and write its result file.

        Raises:
            SonidoError: If the data, the extractor or the results folder are at fault.
            FloatingPointError: If the loss stops being finite.
        """
        task_config = self.config.tasks[self.experiment.task]
        extractor = arm_extractor(self.config.arm(self.experiment.arm))
        with Meter() as meter:
            pl.seed_everything(self.experiment.seed, verbose=False)
            task = build_task(task_config, extractor)
            data = build_data(self.config, task_config, task.target, self.experiment.fraction, self.experiment.seed)
            data.setup(None)
            attach_features(task, data, FeatureCache(self.workspace.cache))
            fingerprint = extractor.fingerprint() if extractor else None
            config = expected_config(self.config, self.experiment, data.sha256, fingerprint)
            tracker = make_tracker(self.wandb, self.workspace.results, self.config.name)
            tracker.start(self.experiment, config)
            history = History(tracker)
            folder = self.workspace.results / "checkpoints" / self.experiment.slug
            best = train(task, data, task_config.budget, folder, history)
            best.trainer.test(task, data.test_dataloader(), str(best.path), verbose=False, weights_only=True)
        result = Result(
            experiment=self.experiment,
            config_sha256=config_hash(config),
            config=config,
            extractor={"name": self.experiment.arm, "sha256": fingerprint} if fingerprint else None,
            data={"name": data.name, "version": data.version, "sha256": data.sha256},
            environment=describe_environment(),
            cost=meter.cost,
            parameters=count_parameters(task),
            history=history.entries,
            best_step=best.step,
            metrics=task.metrics,
            values=task.values,
            items=self._items(task.test_items),
        )
        save_result(self.workspace.results, result)
        tracker.finish(result)

    def _items(self, found: TestItems) -> Items:
        """Return the test set's items; write what there is to hear, if the report shows this run."""
        examples = dict(found.examples)
        task = self.config.tasks[self.experiment.task]
        first, largest = min(self.config.task_seeds(task)), max(self.config.task_fractions(task))
        if (self.experiment.seed, self.experiment.fraction) == (first, largest):
            examples |= save_recordings(self.workspace.results, self.experiment, found.recordings)
        return Items(found.names, found.scores, found.targets, found.predictions, examples)


def count_parameters(task: Any) -> Parameters:
    """Count the parameters of a task's network, without its frozen models and an average of its weights."""
    network = list(task.model.parameters())
    extractor = sum(p.numel() for p in task.extractor.parameters()) if task.extractor else 0
    return Parameters(sum(p.numel() for p in network), sum(p.numel() for p in network if p.requires_grad), extractor)
