"""Data: samples of every form as one kind of value, preprocessed for the network, split without overlap."""

from harness.data.batch import Batch, DataSet, batches, pad
from harness.data.functions import call_function, import_function, is_function_spec
from harness.data.inputs import InputSpec, data_inputs, network_inputs, network_outputs
from harness.data.opening import DataSpec, locate_source, open_data, stream_batches
from harness.data.preprocess import Preprocess, PreprocessFile
from harness.data.split import Split, check_labels, split
from harness.data.truth import Truth, label_kind, labels_at

__all__ = [
    "Batch",
    "DataSet",
    "DataSpec",
    "InputSpec",
    "Preprocess",
    "PreprocessFile",
    "Split",
    "Truth",
    "batches",
    "call_function",
    "check_labels",
    "data_inputs",
    "import_function",
    "is_function_spec",
    "label_kind",
    "labels_at",
    "locate_source",
    "network_inputs",
    "network_outputs",
    "open_data",
    "pad",
    "split",
    "stream_batches",
]
