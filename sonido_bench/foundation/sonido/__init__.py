"""SoniDo (Liao et al. 2024): a hierarchical quantised autoencoder and sparse transformers over its tokens."""
