"""The networks that the quantizer is measured on: splits without overlap, float figures of the data's own README."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import quantizer_networks
from benchmarks.quantizer_evaluation import Evaluator
from harness.data import import_function

SHARED = Path(__file__).parents[3] / "shared/data"
pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="the networks are not beside the repository")

#: Float results of ../shared/data/README.md on all samples, as it prints them.
FLOAT = {
    "resnet8": "0.751",
    "vww": "0.867",
    "kws": "0.912",
    "mnist": "0.984",
    "squeezenet": "0.594",
    "mobilenet": "0.580",
    "fastestdet": "0.319",
    "deeplab": "0.325",
}
SLOW = {"squeezenet", "mobilenet", "fastestdet", "deeplab"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in quantizer_networks.NAMES]
)
def test_the_float_figure_is_that_of_the_datas_readme_and_the_split_is_disjoint(name: str) -> None:
    network = quantizer_networks.load(name)
    everything = range(len(network.labels))

    assert f"{Evaluator(network, indices=everything).float_score:.3f}" == FLOAT[name]
    assert sorted(network.calibration_indices + network.evaluation_indices) == list(everything)
    assert len(next(iter(network.calibration.values()))) == len(network.calibration_indices)


def test_the_table_asks_for_128_images_whatever_the_example_takes() -> None:
    network = quantizer_networks.load("mobilenet")
    assert len(network.calibration_indices) == 128
    assert len(network.evaluation_indices) == 372


@pytest.mark.slow
def test_deeplabs_other_figures_are_those_of_the_readme() -> None:
    network = quantizer_networks.load("deeplab")
    evaluator = Evaluator(network, indices=range(100))
    maps = network.decode(evaluator.reference.by_name())["output"]
    confusion = import_function("voc:confusion", network.job.base)(maps, network.labels)

    assert f"{confusion.pixel_accuracy:.3f}" == "0.836"
    assert (confusion.counts.sum(axis=1) > 0).sum() == 18
