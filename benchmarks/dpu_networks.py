"""Networks whose frame rates on a DPU are published, built from their papers: shapes only, checked by their GOPs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import ceil

from harness.emulation.performance.layers import LayerKind, LayerShape, NetworkShape, Volume


class Builder:
    """A network layer by layer, with 'same' padding as TensorFlow and Caffe exports have it."""

    def __init__(self, height: int, width: int, channels: int = 3) -> None:
        self.shapes: dict[str, Volume] = {"": Volume(channels, height, width)}
        self.layers: list[LayerShape] = []

    def layer(self, kind: LayerKind, op_type: str, parents: tuple[str, ...], output: Volume, **given: int) -> str:
        """Add a layer; its name."""
        name = f"{op_type.lower()}_{len(self.layers)}"
        kernel, stride = given.get("kernel", 1), given.get("stride", 1)
        size = (self.shapes[parents[0]].height, self.shapes[parents[0]].width) if given.get("whole") else (kernel,) * 2
        self.layers.append(
            LayerShape(
                name,
                op_type,
                kind,
                tuple(self.shapes[parent] for parent in parents),
                output,
                parents,
                (name,),
                kernel=size,
                strides=(stride, stride),
                groups=given.get("groups", 1),
                weights=given.get("weights", 0),
                biases=output.channels if given.get("weights") else 0,
                macs=given.get("macs", 0),
            )
        )
        self.shapes[name] = output
        return name

    def conv(self, source: str, channels: int, kernel: int = 1, stride: int = 1) -> str:
        """A convolution with its activation function."""
        first = self.shapes[source]
        out = Volume(channels, ceil(first.height / stride), ceil(first.width / stride))
        weights = first.channels * channels * kernel * kernel
        macs = weights * out.height * out.width
        return self.layer("conv", "Conv", (source,), out, kernel=kernel, stride=stride, weights=weights, macs=macs)

    def depthwise(self, source: str, stride: int = 1, kernel: int = 3) -> str:
        """A depthwise convolution."""
        first = self.shapes[source]
        out = Volume(first.channels, ceil(first.height / stride), ceil(first.width / stride))
        taps = kernel * kernel
        return self.layer(
            "depthwise",
            "Conv",
            (source,),
            out,
            kernel=kernel,
            stride=stride,
            groups=first.channels,
            weights=first.channels * taps,
            macs=out.elements * taps,
        )

    def pool(self, source: str, kernel: int, stride: int) -> str:
        """Largest value of a window."""
        first = self.shapes[source]
        out = Volume(first.channels, ceil(first.height / stride), ceil(first.width / stride))
        return self.layer("maxpool", "MaxPool", (source,), out, kernel=kernel, stride=stride)

    def mean(self, source: str) -> str:
        """Mean of every channel."""
        return self.layer("avgpool", "GlobalAveragePool", (source,), Volume(self.shapes[source].channels), whole=1)

    def add(self, first: str, second: str) -> str:
        """Sum of two."""
        return self.layer("add", "Add", (first, second), self.shapes[first])

    def concat(self, *parents: str) -> str:
        """One after the other, by channels."""
        first = self.shapes[parents[0]]
        channels = sum(self.shapes[parent].channels for parent in parents)
        return self.layer("concat", "Concat", parents, Volume(channels, first.height, first.width))

    def double(self, source: str) -> str:
        """Twice the height and width, nearest value."""
        first = self.shapes[source]
        return self.layer("resize", "Resize", (source,), Volume(first.channels, 2 * first.height, 2 * first.width))

    def dense(self, source: str, outputs: int) -> str:
        """Fully connected."""
        weights = self.shapes[source].elements * outputs
        return self.layer("fc", "Gemm", (source,), Volume(outputs), weights=weights, macs=weights)

    def network(self, *outputs: str) -> NetworkShape:
        """What was built."""
        return NetworkShape(tuple(self.layers), {"input": self.shapes[""]}, outputs)


def resnet(
    blocks: tuple[int, ...],
    height: int = 224,
    width: int = 224,
    *,
    stride_in: str = "middle",
    last_stride: int = 2,
    classes: int = 1000,
) -> NetworkShape:
    """ResNet of bottlenecks (He et al. 2015).

    Args:
        blocks: bottlenecks of each stage.
        height: of the input.
        width: of the input.
        stride_in: which layer takes a stage's stride: "first" 1x1 (the paper), "middle" 3x3 of the first block
            ('v1.5'), "end": the 3x3 of the last block of the stage before (TensorFlow-Slim).
        last_stride: of the last stage.
        classes: of the fully connected layer, 0 for none.
    """
    b = Builder(height, width)
    x = b.pool(b.conv("", 64, 7, 2), 3, 2)
    for stage, count in enumerate(blocks):
        width_in = 64 << stage
        for block in range(count):
            if stride_in == "end":
                stride = 2 if block == count - 1 and stage < len(blocks) - 1 else 1
            else:
                stride = (1 if stage == 0 else last_stride if stage == len(blocks) - 1 else 2) if block == 0 else 1
            if block == 0:
                short = b.conv(x, 4 * width_in, 1, stride)
            elif stride > 1:
                short = b.pool(x, 1, stride)
            else:
                short = x
            y = b.conv(x, width_in, 1, stride if stride_in == "first" else 1)
            y = b.conv(y, width_in, 3, 1 if stride_in == "first" else stride)
            x = b.add(b.conv(y, 4 * width_in), short)
    x = b.mean(x)
    return b.network(b.dense(x, classes) if classes else x)


def mobilenet_v1(width: float, size: int) -> NetworkShape:
    """MobileNet v1 (Howard et al. 2017).

    Args:
        width: multiplier of the channels.
        size: height and width of the input.
    """
    b = Builder(size, size)
    x = b.conv("", int(32 * width), 3, 2)
    plan = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
    for channels, stride in plan:
        x = b.conv(b.depthwise(x, stride), int(channels * width))
    return b.network(b.conv(b.mean(x), 1001))


def inverted_residuals(
    size: int, stem: int, plan: tuple[tuple[int, int, int, int, int], ...], head: int
) -> NetworkShape:
    """Bottlenecks that widen, filter each channel and narrow again.

    Args:
        size: height and width of the input.
        stem: channels of the first layer.
        plan: expansion, channels, blocks, stride of the first block, kernel; of each stage.
        head: channels of the last convolution.
    """
    b = Builder(size, size)
    x = b.conv("", stem, 3, 2)
    for expand, channels, count, first, kernel in plan:
        for block in range(count):
            stride = first if block == 0 else 1
            before = b.shapes[x].channels
            y = b.conv(x, expand * before) if expand > 1 else x
            y = b.conv(b.depthwise(y, stride, kernel), channels)
            x = b.add(y, x) if stride == 1 and before == channels else y
    return b.network(b.conv(b.mean(b.conv(x, head)), 1001))


def mobilenet_v2() -> NetworkShape:
    """MobileNet v2 of width 1 (Sandler et al. 2018)."""
    plan = (
        (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 32, 3, 2, 3), (6, 64, 4, 2, 3), (6, 96, 3, 1, 3), (6, 160, 3, 2, 3),
        (6, 320, 1, 1, 3),
    )  # fmt: skip
    return inverted_residuals(224, 32, plan, 1280)


def efficientnet_lite() -> NetworkShape:
    """EfficientNet-lite0: that of Tan and Le 2019 without squeeze and excitation."""
    plan = (
        (1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5),
        (6, 320, 1, 1, 3),
    )  # fmt: skip
    return inverted_residuals(224, 32, plan, 1280)


def resnet_v2_101() -> NetworkShape:
    """ResNet v2 of 101 layers at 299 x 299, as TensorFlow-Slim has it: normalization before each unit, on the DPU."""
    b = Builder(299, 299)
    x = b.pool(b.conv("", 64, 7, 2), 3, 2)
    for stage, count in enumerate((3, 4, 23, 3)):
        width = 64 << stage
        for block in range(count):
            stride = 2 if block == count - 1 and stage < 3 else 1
            before = b.layer("normalization", "BatchNormalization", (x,), b.shapes[x])
            if block == 0:
                short = b.conv(before, 4 * width, 1, stride)
            else:
                short = b.pool(x, 1, stride) if stride > 1 else x
            y = b.conv(b.conv(b.conv(before, width), width, 3, stride), 4 * width)
            x = b.add(y, short)
    return b.network(b.conv(b.mean(b.layer("normalization", "BatchNormalization", (x,), b.shapes[x])), 1001))


def ssd300() -> NetworkShape:
    """SSD of 300 x 300 on VGG-16 (Liu et al. 2016), 21 classes."""
    b = Builder(300, 300)
    x, maps = "", []
    for channels, count in ((64, 2), (128, 2), (256, 3), (512, 3)):
        if x:
            x = b.pool(x, 2, 2)
        for _ in range(count):
            x = b.conv(x, channels, 3)
    maps.append((x, 4))
    x = b.pool(x, 2, 2)
    for _ in range(3):
        x = b.conv(x, 512, 3)
    x = b.conv(b.conv(b.pool(x, 3, 1), 1024, 3), 1024)
    maps.append((x, 6))
    for narrow, wide, stride, boxes in ((256, 512, 2, 6), (128, 256, 2, 6), (128, 256, 2, 4), (128, 256, 2, 4)):
        x = b.conv(b.conv(x, narrow), wide, 3, stride)
        maps.append((x, boxes))
    heads = [b.conv(source, boxes * count, 3) for source, boxes in maps for count in (4, 21)]
    return b.network(*heads)


def yolo_v3(height: int = 416, width: int = 416, classes: int = 20) -> NetworkShape:
    """YOLOv3 (Redmon and Farhadi 2018)."""
    b = Builder(height, width)
    x = b.conv("", 32, 3)
    kept = []
    for stage, count in enumerate((1, 2, 8, 8, 4)):
        x = b.conv(x, 64 << stage, 3, 2)
        for _ in range(count):
            x = b.add(b.conv(b.conv(x, 32 << stage), 64 << stage, 3), x)
        kept.append(x)
    heads = []
    for stage in (4, 3, 2):
        channels = 32 << stage
        if stage < 4:
            x = b.concat(b.double(b.conv(x, channels)), kept[stage])
        for _ in range(2):
            x = b.conv(b.conv(x, channels), 2 * channels, 3)
        x = b.conv(x, channels)
        heads.append(b.conv(b.conv(x, 2 * channels, 3), 3 * (5 + classes)))
    return b.network(*heads)


def face_resnet20() -> NetworkShape:
    """The 20-layer network of SphereFace (Liu et al. 2017), 112 x 96."""
    b = Builder(112, 96)
    x = ""
    for stage, count in enumerate((1, 2, 4, 1)):
        x = b.conv(x, 64 << stage, 3, 2)
        for _ in range(count):
            x = b.add(b.conv(b.conv(x, 64 << stage, 3), 64 << stage, 3), x)
    return b.network(b.dense(x, 512))


#: Name in the tables → the network.
BUILT: Mapping[str, Callable[[], NetworkShape]] = {
    "tf_mlperf_resnet50_imagenet_224_224_8.19G": lambda: resnet((3, 4, 6, 3)),
    "tf2_resnet50_imagenet_224_224_7.76G": lambda: resnet((3, 4, 6, 3), stride_in="first"),
    "tf_resnetv1_50_imagenet_224_224_6.97G": lambda: resnet((3, 4, 6, 3), stride_in="end"),
    "tf_resnetv1_101_imagenet_224_224_14.4G": lambda: resnet((3, 4, 23, 3), stride_in="end"),
    "pt_personreid-res50_market1501_256_128_5.3G": lambda: resnet((3, 4, 6, 3), 256, 128, classes=0),
    "tf_mobilenetv1_0.25_imagenet_128_128_27M": lambda: mobilenet_v1(0.25, 128),
    "tf_mobilenetv1_0.5_imagenet_160_160_150M": lambda: mobilenet_v1(0.5, 160),
    "tf_mobilenetv2_1.0_imagenet_224_224_602M": mobilenet_v2,
    "tf_yolov3_voc_416_416_65.63G": yolo_v3,
    "pt_facerec-resnet20_mixed_112_96_3.5G": face_resnet20,
}

#: Built after the model's form and constants were frozen, from rows that no decision had looked at.
BUILT_AFTERWARDS: Mapping[str, Callable[[], NetworkShape]] = {
    "tf2_Efficientnet-lite_imagenet_224_224_0.77G": efficientnet_lite,
    "tf_resnetv2_101_imagenet_299_299_26.78G": resnet_v2_101,
    "tf_ssd_voc_300_300_64.81G": ssd300,
}
