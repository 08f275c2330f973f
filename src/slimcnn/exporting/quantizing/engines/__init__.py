"""One file an engine that quantizes; see `slimcnn.exporting.quantizing.engine`."""
