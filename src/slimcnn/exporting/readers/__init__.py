"""Readers of exported files: one standalone file per runtime, without slimcnn and, if possible, without PyTorch.

Each defines `open_model(path, threads) -> predict` and `predict(array (n, c, h, w)) -> array`. Several inputs are
several arguments, several outputs a tuple. The package and the fresh process of the parity check use the same reader.
"""
