"""Quantization engines, one file each; see `slimcnn.exporting.quantizing.engine`."""
