"""One data set per file; ``rendered`` is made on the spot and needs no download."""

if __name__ != "sonido_bench.datamodules":
    # A second import under another name would make second class objects, and would shadow a user's own package.
    raise ImportError(f"import sonido_bench.datamodules, not {__name__}")
