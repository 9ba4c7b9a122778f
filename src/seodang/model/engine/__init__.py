"""How packs run on a model: attention, loss, compiled layers, CUDA graphs, and the test of all of it."""
