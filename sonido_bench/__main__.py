"""``python -m sonido_bench`` is ``sonido-bench``."""

from sonido_bench.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
