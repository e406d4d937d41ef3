"""The frozen models, each an extractor."""
