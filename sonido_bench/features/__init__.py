"""What a frozen model gives: its streams, their alignment in time, and a cache of them."""
