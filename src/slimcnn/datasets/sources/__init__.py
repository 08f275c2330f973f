"""One file per dataset; see `slimcnn.datasets.load_dataset`."""
