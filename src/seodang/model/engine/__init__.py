"""How packs run on a model: attention, loss, compiled layers, CUDA graphs."""
