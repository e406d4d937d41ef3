"""Does a music foundation model make your task better, by how much, and is it real?"""

__version__ = "0.1.0"
