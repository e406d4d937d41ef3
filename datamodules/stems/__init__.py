"""Tracks of named stems, read a part at a time: what separation and mixing learn from."""
