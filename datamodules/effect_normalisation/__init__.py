"""Effect normalisation: wet stems brought to the average effects of a training set, as if they were alike in them.

FxNorm-automix (Martinez-Ramirez et al., 2022): a network that sees only such stems can learn mixing from wet stems.
"""
