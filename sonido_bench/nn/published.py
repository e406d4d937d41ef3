"""Published weights brought into a network that may have injections beside what was published."""

from collections.abc import Collection, Mapping

from torch import Tensor, nn

from sonido_bench.errors import ConfigError
from sonido_bench.nn.optional_injection import OptionalInjection

__all__ = ["load_published"]

_COUNTERS = "num_batches_tracked"
"""Of batch normalisation: unused with a fixed momentum, and absent from weights that were saved by an old torch."""


def load_published(network: nn.Module, state: Mapping[str, Tensor], ignored: Collection[str] = ()) -> None:
    """Load weights that know nothing of injections; those stay as they are, so that they still add nothing.

    Args:
        network: Its state has the published names, beside those of its ``OptionalInjection`` modules.
        state: The published weights, of any floating type.
        ignored: Names in ``state`` that are not weights.

    Raises:
        ConfigError: If names are missing or unknown, or a shape differs: the weights are of another network.
    """
    injections = tuple(f"{name}." for name, module in network.named_modules() if isinstance(module, OptionalInjection))
    own = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith(injections)}
    found = {name: tensor for name, tensor in state.items() if name not in ignored}
    missing = sorted(name for name in own.keys() - found.keys() if not name.endswith(_COUNTERS))
    unknown = sorted(found.keys() - own.keys())
    shapes = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in own.items()
        if name in found and found[name].shape != tensor.shape
    ]
    findings = {"missing": missing, "unknown": unknown, "of another shape": shapes}
    listed = [f"{kind}: {', '.join(names[:3])} ({len(names)} in all)" for kind, names in findings.items() if names]
    if listed:
        raise ConfigError(
            f"expected the weights of a {type(network).__name__} built like this one, found {'; '.join(listed)}; "
            "build the network with the sizes of the weights"
        )
    network.load_state_dict(found, strict=False)
