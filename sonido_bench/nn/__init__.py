"""Task networks in plain torch."""
