"""The families as PyTorch modules: one file a family, loaded when a model is built."""
