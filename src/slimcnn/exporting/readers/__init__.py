"""Readers of exported files: one file a runtime, which runs alone, without slimcnn and, where it can, without PyTorch.

Each has `open_model(path, threads) -> predict`, and `predict(array (n, c, h, w)) -> array`: several inputs are several
arguments, several outputs a tuple. The same file is read in-process and by the fresh process that checks parity.
"""
