"""SqueezeNet 1.1 with five classes, the network of the published details and memory figures: its shape, random weights.

Iandola et al., 'SqueezeNet' (2016), in the release 1.1: three poolings earlier, 64 filters of 3 x 3 in the first layer.
"""

from __future__ import annotations

from typing import Any

from onnx import ModelProto

#: Fire module → (squeezed channels, channels of each expansion).
FIRES = {2: (16, 64), 3: (16, 64), 4: (32, 128), 5: (32, 128), 6: (48, 192), 7: (48, 192), 8: (64, 256), 9: (64, 256)}
CLASSES = 5


def squeezenet_5(builder: type[Any], size: int = 227) -> ModelProto:
    """Input "data" [N, 3, size, size] → probabilities "prob" [N, 5]; layers have the published names."""
    net = builder(5)

    def conv(x: str, name: str, relu: str, shape: tuple[int, ...], **attributes: list[int]) -> str:
        net.conv(x, name, shape, **attributes)
        return str(net.add("Relu", [name], relu))

    def pool(x: str, name: str) -> str:
        # Padded on the right and below only, as the published network does.
        return str(net.add("MaxPool", [x], name, kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1]))

    x = pool(conv("data", "conv1", "relu_conv1", (64, 3, 3, 3), strides=[2, 2]), "pool1")
    channels = 64
    for number, (narrow, wide) in FIRES.items():
        fire = f"fire{number}"
        narrowed = conv(x, f"{fire}-squeeze1x1", f"{fire}-relu_squeeze1x1", (narrow, channels, 1, 1))
        left = conv(narrowed, f"{fire}-expand1x1", f"{fire}-relu_expand1x1", (wide, narrow, 1, 1))
        right = conv(narrowed, f"{fire}-expand3x3", f"{fire}-relu_expand3x3", (wide, narrow, 3, 3), pads=[1] * 4)
        x, channels = net.add("Concat", [left, right], f"{fire}-concat", axis=1), 2 * wide
        if number in {3, 5}:
            x = pool(x, f"pool{number}")
    x = net.add("Dropout", [x], "drop9")
    x = conv(x, "conv10", "relu_conv10", (CLASSES, channels, 1, 1))
    x = net.add("GlobalAveragePool", [x], "pool10")
    x = net.add("Flatten", [x], "flatten")
    net.add("Softmax", [x], "prob", axis=1)
    model: ModelProto = net.model({"data": ["N", 3, size, size]}, {"prob": ["N", CLASSES]})
    return model
