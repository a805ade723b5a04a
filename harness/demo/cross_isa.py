"""The shipped network in float, U8S8 and S8S8, with what this host computes: what `targets check` asks of ARM boards.

`digits.u8s8.onnx` is `quantrig quantize digits.onnx --data harness.demo.digits:held_out --environment cpu --exclude
add_1 --exclude add_2`; the S8S8 form is the same network with every unsigned zero point and value moved by 128.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, TensorProto, load, numpy_helper

from harness.demo import JOB
from harness.demo.digits import held_out
from harness.host import host_environment
from harness.quantize.runtime import open_session, optimizers_that_break
from harness.targets.cross_isa import FLOAT_TOLERANCE, IsaCase

#: A second of work under an emulator for each of the three networks.
SAMPLES = 2
_VNNI = {"avx512_vnni", "avx_vnni"}


def digits_cases(samples: int = SAMPLES) -> tuple[IsaCase, ...]:
    """The three forms of the network, run on this host.

    On x86 without VNNI the reference is computed with ONNX Runtime's precise kernels, which do not saturate.

    Args:
        samples: how many of the held-out ones.
    """
    data, _ = held_out()
    images = data["image"][:samples]
    u8s8 = load(JOB.with_name("digits.u8s8.onnx"))
    float_network = load(JOB.with_name("digits.onnx"))
    return (
        _case("U8S8", u8s8, images, 0.0, integers=True),
        _case("S8S8", signed(u8s8), images, None, integers=True),
        _case("float", float_network, images, FLOAT_TOLERANCE, integers=False),
    )


def host_saturates() -> bool:
    """Whether this host's usual int8 kernels cut sums of product pairs to 16 bits."""
    known = host_environment()
    features = known["cpu_features"]
    return known["architecture"] == "x86_64" and isinstance(features, list) and not _VNNI & set(features)


def signed(unsigned: ModelProto) -> ModelProto:
    """A U8S8 network as S8S8: the same real values, written as signed integers."""
    model = ModelProto()
    model.CopyFrom(unsigned)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.UINT8:
            moved = numpy_helper.to_array(tensor).astype(np.int16) - 128
            tensor.CopyFrom(numpy_helper.from_array(moved.astype(np.int8), tensor.name))
    del model.graph.value_info[:]
    return model


def _case(
    name: str, model: ModelProto, images: npt.NDArray[np.float32], tolerance: float | None, *, integers: bool
) -> IsaCase:
    session = open_session(model, f"digits in {name}", threads=1, precise_x86_int8=integers and host_saturates())
    feed = session.get_inputs()[0].name
    inputs = tuple({feed: image[np.newaxis]} for image in images)
    expected = np.concatenate([np.asarray(session.run(None, one)[0]) for one in inputs])
    # One step that an int8 tensor of the logits would have.
    step = float(np.abs(expected).max()) / np.iinfo(np.int8).max
    return IsaCase(
        name,
        model.SerializeToString(deterministic=True),
        inputs,
        expected,
        step if tolerance is None else tolerance,
        optimizers_that_break(model),
    )
