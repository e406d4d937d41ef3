"""A neural audio codec with residual vector quantisation, and what makes its codebooks independent of each other."""
