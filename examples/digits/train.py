"""Train the network that quantrig ships: PyTorch on the CPU, scikit-learn's digits, one fixed seed.

    pip install 'quantrig[train]'
    python examples/digits/train.py --out harness/demo/digits.onnx

It never looks at the held-out samples before the last line, which reports their accuracy: the number of epochs and the
learning rate are fixed, nothing is selected on them. The outcome of the committed file is in RESULTS.md.
"""

from __future__ import annotations

import argparse
import hashlib
import platform
import tempfile
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from harness.demo import digits

SEED = 7
EPOCHS = 30
BATCH = 64
PEAK_LEARNING_RATE = 4e-3
WEIGHT_DECAY = 1e-3
#: Training images are moved by up to this many pixels of 32: half a pixel of the 8x8 originals.
SHIFT_PIXELS = 2
OPSET = 18


class ConvBnRelu(nn.Module):  # type: ignore[misc, unused-ignore] # untyped where PyTorch is not installed
    """A convolution that training normalizes and export folds."""

    def __init__(self, inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn: nn.Module = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, H, W] → [N, outputs, H / stride, W / stride]."""
        return functional.relu(self.bn(self.conv(x)))

    def fold(self) -> None:
        """Put the normalization into the convolution's weights and bias."""
        if isinstance(self.bn, nn.BatchNorm2d):
            self.conv = fuse_conv_bn_eval(self.conv, self.bn)
            self.bn = nn.Identity()


class Residual(nn.Module):  # type: ignore[misc, unused-ignore] # untyped where PyTorch is not installed
    """Two convolutions beside an identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.a = ConvBnRelu(channels, channels)
        self.b = ConvBnRelu(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """The shape stays."""
        return x + self.b(self.a(x))  # type: ignore[no-any-return, unused-ignore]


class DigitsNet(nn.Module):  # type: ignore[misc, unused-ignore] # untyped where PyTorch is not installed
    """92 million multiplications a sample, nearly all in 3x3 convolutions: the load that int8 is bought for."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvBnRelu(1, 48)
        self.residual_1 = Residual(48)
        self.residual_2 = Residual(48)
        self.reduce = ConvBnRelu(48, 64, stride=2)
        self.depthwise = ConvBnRelu(64, 64, stride=2, groups=64)
        self.pointwise = ConvBnRelu(64, 64, kernel=1)
        self.classifier = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 1, 32, 32] in 0..1 → logits [N, 10]."""
        x = self.residual_2(self.residual_1(self.stem(x)))
        x = self.pointwise(self.depthwise(self.reduce(x)))
        return self.classifier(functional.avg_pool2d(x, 8).flatten(1))  # type: ignore[no-any-return, unused-ignore]


def shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image moved by its own whole number of pixels, background where it came from."""
    size, margin = images.shape[-1], SHIFT_PIXELS
    padded = functional.pad(images, (margin,) * 4)
    offsets = torch.randint(0, 2 * margin + 1, (len(images), 2), generator=generator).tolist()
    return torch.stack([x[:, r : r + size, c : c + size] for x, (r, c) in zip(padded, offsets, strict=True)])


def train(epochs: int = EPOCHS, seed: int = SEED) -> DigitsNet:
    """A trained network in evaluation mode; the same one for the same arguments and PyTorch version."""
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    generator = torch.Generator().manual_seed(seed)
    inputs, labels = digits.training()
    images, targets = torch.from_numpy(inputs["image"]), torch.from_numpy(labels)
    network = DigitsNet()
    optimizer = torch.optim.AdamW(network.parameters(), lr=PEAK_LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = epochs * -(-len(images) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_LEARNING_RATE, total_steps=steps)
    for epoch in range(epochs):
        total = 0.0
        for chosen in torch.randperm(len(images), generator=generator).split(BATCH):
            loss = functional.cross_entropy(
                network(shifted(images[chosen], generator)), targets[chosen], label_smoothing=0.05
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(chosen)
        print(f"epoch {epoch + 1:2d}/{epochs}  training loss {total / len(images):.4f}", flush=True)
    network.eval()
    return network


def export(network: DigitsNet, path: Path) -> None:
    """Write the folded network as one ONNX file with readable layer names and no trace of this machine."""
    for block in network.modules():
        if isinstance(block, ConvBnRelu):
            block.fold()
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder, "raw.onnx")
        torch.onnx.export(
            network.eval(),
            (torch.zeros(2, 1, 32, 32),),
            str(raw),
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes={"x": {0: torch.export.Dim("batch")}},
            opset_version=OPSET,
            external_data=False,
            dynamo=True,
        )
        model = onnx.load(raw)
    tidy(model)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def tidy(model: onnx.ModelProto) -> None:
    """Drop the exporter's stack traces, and name each layer after the module that holds its weights."""
    model.ClearField("metadata_props")
    model.graph.ClearField("metadata_props")
    model.graph.ClearField("value_info")
    model.graph.name = "digits"
    model.doc_string = "10 handwritten digits; examples/digits/train.py"
    numbers: dict[str, int] = {}
    for node in model.graph.node:
        node.ClearField("metadata_props")
        node.ClearField("doc_string")
        weights = [name for name in node.input if name.endswith(".weight")]
        if weights:
            node.name = weights[0].removesuffix(".weight").removesuffix(".conv")
        else:
            kind = node.op_type.lower()
            numbers[kind] = numbers.get(kind, 0) + 1
            node.name = f"{kind}_{numbers[kind]}"
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        value.ClearField("metadata_props")


def accuracy(network: DigitsNet) -> tuple[int, int]:
    """(right, all) over the held-out samples."""
    inputs, labels = digits.held_out()
    with torch.no_grad():
        predicted = network(torch.from_numpy(inputs["image"])).argmax(1).numpy()
    return int(np.count_nonzero(predicted == labels)), len(labels)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train and export the shipped network.")
    parser.add_argument("--out", type=Path, required=True, help="ONNX file to write")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # the sums of a parallel reduction depend on the number of threads
    network = train(arguments.epochs)
    export(network, arguments.out)
    right, samples = accuracy(network)
    print(f"held out: {right} of {samples} right, top-1 {100 * right / samples:.2f} %")
    print(f"parameters {sum(p.numel() for p in network.parameters()):,}, file {arguments.out.stat().st_size:,} bytes")
    print(f"sha256 {hashlib.sha256(arguments.out.read_bytes()).hexdigest()}")
    print(f"seed {SEED}, Python {platform.python_version()}, PyTorch {torch.__version__}, ONNX {onnx.__version__}")


if __name__ == "__main__":
    main()
