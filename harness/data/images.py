"""Images to tensors: one network input, one fixed order of steps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from harness.data.batch import Array
from harness.data.inputs import InputSpec, shape_text
from harness.data.preprocess import Channels, Layout, Preprocess
from harness.data.tensors import as_dtype, require_finite
from harness.errors import UserError

#: What counts as an image in a folder; formats that Pillow reads without optional libraries.
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".webp", ".tif", ".tiff", ".gif"})
#: A larger image is a mistake or a bomb; Pillow itself warns from here on and refuses twice as many.
MAX_PIXELS = 89_478_485
#: 16-bit and float images have no agreed way to 8 bits.
_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "La", "RGBa"})

Pixels = npt.NDArray[np.uint8]


class ImagePipeline:
    """Preprocessing for one image input of a network.

    Args:
        preprocess: the job's.
        spec: the network's only data input, float or integer, rank 4.

    Raises:
        UserError: the input is no image, or contradicts the preprocessing; names both.
    """

    def __init__(self, preprocess: Preprocess, spec: InputSpec) -> None:
        self.preprocess = preprocess
        self.spec = spec
        if len(spec.shape) != 4:
            raise UserError(
                f"input '{spec.name}' is {spec.describe()}, which is no image [N,C,H,W] or [N,H,W,C]; "
                "give its data as .npz or module:function"
            )
        check_dtype(preprocess, spec)
        self.layout = _layout(preprocess.layout, spec)
        self.height, self.width, count = _sizes(self.layout, spec)
        self.channels = _channels(preprocess.channels, count, spec)
        self.count = 1 if self.channels == "gray" else 3
        for name, values in (("mean", preprocess.mean), ("std", preprocess.std)):
            if len(values) not in {1, self.count}:
                raise UserError(
                    f"preprocess.{name}: {len(values)} numbers for {self.count} channel ({self.channels}); give one"
                )

    def decode(self, path: Path, name: str) -> Pixels:
        """Pixels of one file, uint8 [H, W, C] in the order of `channels`, resized and cropped.

        Raises:
            UserError: missing, not an image, damaged, or of another size than the network's input.
        """
        try:
            with Image.open(path) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise UserError(f"{name}: over {MAX_PIXELS} pixels; shrink or remove it")
                image.load()
                return self._geometry(image, name)
        except FileNotFoundError:
            raise UserError(f"{name}: no such file; restore it, or remove it from the data") from None
        except UnidentifiedImageError:
            raise UserError(f"{name}: not an image; replace or remove it") from None
        except Image.DecompressionBombError:
            raise UserError(f"{name}: over {MAX_PIXELS} pixels; shrink or remove it") from None
        except (OSError, ValueError, SyntaxError, EOFError) as error:  # what Pillow's decoders raise on damaged files
            reason = str(error).partition("\n")[0]
            raise UserError(f"{name}: damaged image ({reason}); replace or remove it") from None

    def from_array(self, array: Array, name: str) -> Pixels:
        """Like `decode`, from uint8 pixels [H, W] or [H, W, C], RGB."""
        image = Image.fromarray(array.squeeze(-1) if array.ndim == 3 and array.shape[-1] == 1 else array)
        return self._geometry(image, name)

    def _geometry(self, image: Image.Image, name: str) -> Pixels:
        if image.mode not in _MODES:
            raise UserError(f"{name}: pixels of mode {image.mode}; save it with 8 bits per channel")
        rgb = image.convert("RGB")
        resize, crop = self.preprocess.resize, self.preprocess.crop
        if resize is not None:
            rgb = rgb.resize(_target_size(rgb.size, resize), Image.Resampling.BILINEAR)
        if crop is not None:
            rgb = _centre(rgb, crop, name)
        width, height = rgb.size
        if self.height not in {None, height} or self.width not in {None, width}:
            wanted = f"{self.height or '?'}x{self.width or '?'}"
            raise UserError(
                f"{name}: {height}x{width} pixels (height x width) where input '{self.spec.name}' takes {wanted}; "
                f"set `preprocess: {{resize: [{self.height or height}, {self.width or width}]}}`"
            )
        if self.channels == "gray":
            return np.asarray(rgb.convert("L"))[:, :, np.newaxis]
        pixels = np.asarray(rgb)
        return pixels[:, :, ::-1] if self.channels == "bgr" else pixels

    def finish(self, images: Sequence[npt.NDArray[np.number]] | npt.NDArray[np.number], names: Sequence[str]) -> Array:
        """Tensor of the network's dtype and layout from images [H, W, C] in the order of `channels`.

        Raises:
            UserError: images of different sizes, values that the dtype cannot hold, NaN.
        """
        sizes = [image.shape for image in images]
        for name, size in zip(names, sizes, strict=True):
            if size != sizes[0]:
                raise UserError(
                    f"{name}: {size[0]}x{size[1]} pixels, {names[0]} has {sizes[0][0]}x{sizes[0][1]}; "
                    "one batch needs one size: set `preprocess: {resize: [height, width]}`"
                )
        steps = self.preprocess
        x = np.stack(list(images)).astype(np.float32)
        if steps.scale != 1.0:
            x *= np.float32(steps.scale)
        if any(steps.mean):
            x -= np.asarray(steps.mean, np.float32)
        if any(value != 1.0 for value in steps.std):
            x /= np.asarray(steps.std, np.float32)
        require_finite(x, names, self.spec.name)
        x = x.transpose(0, 3, 1, 2) if self.layout == "NCHW" else x
        return np.ascontiguousarray(as_dtype(x, self.spec.numpy_dtype, names, self.spec.name))


def check_dtype(preprocess: Preprocess, spec: InputSpec) -> None:
    """Refuse a stated dtype that is not the network's."""
    if preprocess.dtype not in {None, spec.dtype}:
        raise UserError(f"preprocess.dtype: {preprocess.dtype}, but input '{spec.name}' is {spec.dtype}; remove it")


def _target_size(size: tuple[int, int], resize: int | tuple[int, int]) -> tuple[int, int]:
    """(width, height) for Pillow. The longer side is rounded down, as torchvision does."""
    if not isinstance(resize, int):
        return resize[1], resize[0]
    long = int(resize * max(size) / min(size))
    return (resize, long) if size[0] <= size[1] else (long, resize)


def _centre(image: Image.Image, crop: tuple[int, int], name: str) -> Image.Image:
    width, height = image.size
    if crop[0] > height or crop[1] > width:
        raise UserError(
            f"{name}: {height}x{width} pixels are too few to crop {crop[0]}x{crop[1]} from; set `preprocess: "
            f"{{resize: {max(crop)}}}` to scale it first"
        )
    top, left = round((height - crop[0]) / 2), round((width - crop[1]) / 2)
    return image.crop((left, top, left + crop[1], top + crop[0]))


def _layout(wanted: Layout | None, spec: InputSpec) -> Layout:
    possible: list[Layout] = []
    if spec.shape[1] in {None, 1, 3}:
        possible.append("NCHW")
    if spec.shape[3] in {None, 1, 3}:
        possible.append("NHWC")
    shape = f"input '{spec.name}' is {shape_text(spec.shape)}"
    if not possible:
        raise UserError(f"{shape}: no axis of 1 or 3 channels; give its data as .npz or module:function")
    if wanted is None and len(possible) > 1:
        named = [kind for kind in possible if spec.shape[1 if kind == "NCHW" else 3] is not None]
        if len(named) != 1:
            raise UserError(f"{shape}: NCHW and NHWC both fit; say which with `preprocess: {{layout: …}}`")
        return named[0]
    if wanted is not None and wanted not in possible:
        raise UserError(f"{shape}: that is {possible[0]}; set `preprocess: {{layout: {possible[0]}}}`, not {wanted}")
    return wanted or possible[0]


def _sizes(layout: Layout, spec: InputSpec) -> tuple[int | None, int | None, int | None]:
    _, a, b, c = spec.shape
    return (b, c, a) if layout == "NCHW" else (a, b, c)


def _channels(wanted: Channels | None, count: int | None, spec: InputSpec) -> Channels:
    if wanted is None:
        return "gray" if count == 1 else "rgb"
    needed = 1 if wanted == "gray" else 3
    if count not in {None, needed}:
        right = "gray" if count == 1 else "rgb or bgr"
        raise UserError(f"preprocess.channels: {wanted}, but input '{spec.name}' has {count} channel(s); set {right}")
    return wanted
