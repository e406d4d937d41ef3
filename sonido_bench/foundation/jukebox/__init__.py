"""Jukebox (Dhariwal et al. 2020): VQ-VAEs of three rates, and transformers over their codes."""
