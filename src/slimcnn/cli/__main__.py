"""Entry point of `python -m slimcnn.cli`."""

from slimcnn.cli import main

if __name__ == "__main__":
    main()
