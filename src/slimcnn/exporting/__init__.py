"""Export to ONNX, OpenVINO and other formats, with a check of every file's outputs against the network's."""

# Imported first, so that the registry `formats` replaces the subpackage of that name in this namespace.
import slimcnn.exporting.formats  # noqa: F401

# isort: split
from slimcnn.exporting.exported import PARITY, ExportedFile, how_to_run, read_parity, record
from slimcnn.exporting.format import Contents, FileFormat, Options, formats
from slimcnn.exporting.layer_times import LayerShape, LayerTimes
from slimcnn.exporting.parity import TOLERANCE, Parity, answers, check_parity, compare, fresh_answers
from slimcnn.exporting.preparing import example_and_outputs, prepare
from slimcnn.exporting.process_memory import ProcessMemory, process_memory
from slimcnn.exporting.runtimes import RUNTIMES, Opened, Runtime, open_in, reader_of, why_not
from slimcnn.exporting.source import file_digest, source_digest
from slimcnn.exporting.writing import entry_of, export, transfer, write_model

__all__ = [
    "PARITY",
    "RUNTIMES",
    "TOLERANCE",
    "Contents",
    "ExportedFile",
    "FileFormat",
    "LayerShape",
    "LayerTimes",
    "Opened",
    "Options",
    "Parity",
    "ProcessMemory",
    "Runtime",
    "answers",
    "check_parity",
    "compare",
    "entry_of",
    "example_and_outputs",
    "export",
    "file_digest",
    "formats",
    "fresh_answers",
    "how_to_run",
    "open_in",
    "prepare",
    "process_memory",
    "read_parity",
    "reader_of",
    "record",
    "source_digest",
    "transfer",
    "why_not",
    "write_model",
]
