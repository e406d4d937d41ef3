"""Scores as pure functions; the reference comes first, the estimate second."""
