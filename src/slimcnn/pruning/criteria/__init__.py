"""One file per criterion; importing this folder registers them."""
