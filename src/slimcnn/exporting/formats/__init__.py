"""Model file formats, one file each; this folder is scanned for them."""
