"""One image file in, one 8-bit RGB picture out, or one sentence that says what the file is and what to do about it."""

from __future__ import annotations

import codecs
import hashlib
import io
import re
import stat
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms, ImageOps, JpegImagePlugin, UnidentifiedImageError

from hc_lafter.data.tables import read_table

MAX_PIXELS = 89_478_485  # the size from which Pillow warns of a decompression bomb: 256 MiB as RGB
MAX_BYTES = 2**30  # no photograph is larger as a file; beyond it somebody has renamed a video or an archive
RULES = 1  # raise when a change here changes the pixels that a file decodes to: part of every data fingerprint

# The formats a photograph comes in, each known by its first bytes. Left out on purpose: EPS (Pillow would start
# Ghostscript) and formats without a signature (TGA, XBM), which "recognise" text and noise. HEIF counts where the user
# has registered pillow-heif.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO", "QOI", "HEIF")

_KINDS = read_table(__file__, "kinds.toml")
_AGAIN = _KINDS["remedies"]["again"]
_SMALLER = "make it smaller, or save it as a baseline JPEG"


class BadImage(ValueError):
    """An image file that cannot be decoded; reads as one sentence.

    Attributes:
        name: the file.
        found: what was found there, a verb first ("is empty (0 bytes)").
        remedy: what to do about it.
    """

    def __init__(self, name: str, found: str, remedy: str):
        super().__init__(name, found, remedy)  # all three, so that the exception survives a worker process's pickle
        self.name, self.found, self.remedy = name, found, remedy

    def __str__(self) -> str:
        return f"{self.name} {self.found}: {self.remedy}."


def read(path: str | Path) -> bytes:
    """The bytes of an image file.

    Raises:
        BadImage: missing, a folder, no regular file, not permitted, empty, or larger than ``MAX_BYTES``.
    """
    path, name = Path(path), str(path)
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise BadImage(name, "is a folder with the name of an image", "rename it, or move its images one level up")
        if not stat.S_ISREG(status.st_mode):
            raise BadImage(name, "is a device or a pipe", "put a regular file in its place")
        if status.st_size > MAX_BYTES:
            found = f"is {status.st_size / 2**30:.1f} GiB long, more than any image"
            raise BadImage(name, found, "move it out of the data set")
        data = path.read_bytes()
    except FileNotFoundError:
        raise BadImage(name, "does not exist", "correct the path or fetch the file") from None
    except OSError as error:
        found = f"cannot be read ({error.strerror or error})"
        raise BadImage(name, found, "check its permissions and its disk") from error
    if not data:
        raise BadImage(name, "is empty (0 bytes)", _AGAIN)
    return data


def decode(source: str | Path | bytes, *, max_pixels: int = MAX_PIXELS, name: str | None = None) -> Image.Image:
    """The first frame of an image file as 8-bit RGB, upright.

    The format follows from the content, never from the extension. EXIF orientation is applied; transparency is laid on
    white; 16 bits become 8 by round(v / 257) (16-bit colour PNG and TIFF: Pillow's high byte, which differs by at most
    one level); floats must lie in 0..1 and become round(255 v); everything else is Pillow's ``convert("RGB")``. An
    embedded ICC profile is not applied, because the pipelines that CLIP was trained with do not apply it. A PNG that
    Pillow refuses is tried once more without its profile and its texts, for whose size Pillow has limits.

    Args:
        source: a path, or the bytes of a file.
        max_pixels: width x height above which nothing is decoded. A baseline JPEG above it is decoded at the first of
            1/2, 1/4, 1/8 of its size that fits (the decoder never holds the large picture); all else is refused.
        name: what errors call the image; default the path.

    Raises:
        BadImage: the file is missing, empty, cut short, damaged, too large, or no image.
    """
    name = name or ("<bytes>" if isinstance(source, bytes) else str(source))
    data = source if isinstance(source, bytes) else read(source)
    try:
        return _decode(data, max_pixels, name)
    except BadImage:
        bare = _without_texts(data)
        if bare == data:
            raise
        return _decode(bare, max_pixels, name)


def _decode(data: bytes, max_pixels: int, name: str) -> Image.Image:
    # Pillow's parsers meet bytes of any origin here and raise nearly any exception over them (OSError, SyntaxError,
    # struct.error, KeyError ...): whatever it is, the file is what the user has to replace.
    try:
        image = _open(data)
    except UnidentifiedImageError:
        found, remedy = _sniff(data)
        raise BadImage(name, f"holds {found}", remedy) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImage(name, f"is too large to decode ({error})", _SMALLER) from None
    except Exception as error:
        raise BadImage(name, f"cannot be opened as an image ({_brief(error)})", _AGAIN) from error
    # A progressive JPEG keeps the coefficients of the whole picture whatever the output scale, so it gains nothing.
    if image.format == "JPEG" and not image.info.get("progressive"):
        scales = (scale for scale in (1, 2, 4, 8) if _area(image, scale) <= max_pixels)
        if (scale := next(scales, 1)) > 1:
            image.draft(None, (max(1, image.width // scale), max(1, image.height // scale)))
    if _area(image) > max_pixels:
        found = f"is {image.width} x {image.height} pixels, more than the limit of {max_pixels}"
        raise BadImage(name, found, _SMALLER)
    try:
        image.load()
    except Exception as error:
        found = f"is a {image.format} image that is cut short or damaged ({_brief(error)})"
        raise BadImage(name, found, _AGAIN) from error
    return _upright(_rgb(image, name), image)


def _without_texts(data: bytes) -> bytes:
    """A PNG without the chunks that hold its texts and its colour profile; other bytes as they are."""
    if not data.startswith(b"\x89PNG"):
        return data
    kept, at = [data[:8]], 8
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4], "big")  # length, kind, content, check sum
        if data[at + 4 : at + 8] not in (b"iCCP", b"tEXt", b"zTXt", b"iTXt"):
            kept.append(data[at:end])
        at = end
    return b"".join(kept)


def _area(image: Image.Image, scale: int = 1) -> int:
    return -(-image.width // scale) * -(-image.height // scale)


def pixel_hash(image: Image.Image) -> str:
    """Hex sha256 over the size and the pixels of an RGB image: equal for two files that decode to the same picture."""
    digest = hashlib.sha256(f"{image.mode} {image.width} {image.height} ".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def _open(data: bytes) -> Image.Image:
    if data.startswith(b"\xff\xd8\xff"):
        # Image.open refuses by size before one can ask for a reduced decode; the plugin itself reads the header only.
        try:
            return JpegImagePlugin.JpegImageFile(io.BytesIO(data))
        except SyntaxError as error:
            raise UnidentifiedImageError(str(error)) from error
    Image.init()
    return Image.open(io.BytesIO(data), formats=[f for f in FORMATS if f in Image.OPEN])


def _upright(rgb: Image.Image, image: Image.Image) -> Image.Image:
    """``rgb`` turned as the EXIF of ``image``, from which it was made, asks for, and without any metadata."""
    tag = Image.Exif()
    try:
        tag[ExifTags.Base.Orientation] = image.getexif().get(ExifTags.Base.Orientation, 1)
        rgb.info = {"exif": tag.tobytes()}  # the tag alone: Pillow fails over a damaged one beside it
        rgb = ImageOps.exif_transpose(rgb)
    except Exception:  # a broken EXIF block says nothing, and the pixels beside it are whole
        pass
    rgb.info = {}  # the next reader must not turn the picture once more
    return rgb


def _rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _deep_grey(image, name).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    if image.mode == "LAB":  # the one mode of a TIFF that convert() does not know
        return ImageCms.profileToProfile(
            image, ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), outputMode="RGB"
        )
    return image.convert("RGB")


def _deep_grey(image: Image.Image, name: str) -> Image.Image:
    values = np.asarray(image)  # [height, width] uint16, int32 or float32; convert("RGB") would clip all three at 255
    low, high = values.min(), values.max()
    top = 1 if image.mode == "F" else 65535
    if not (low >= 0 and high <= top):  # also true of NaN
        kind = "floats" if image.mode == "F" else "32-bit integers"
        found = f"holds {kind} from {low} to {high}, and only 0..{top} has a known brightness"
        raise BadImage(name, found, "rescale it and save it with 8 or 16 bits")
    grey = np.rint(values * 255.0) if image.mode == "F" else (values.astype(np.uint32) + 128) // 257
    grey = grey.astype(np.uint8)
    if isinstance(image.info.get("transparency"), int):  # a grey PNG may name one value as transparent
        grey[values == image.info["transparency"]] = 255
    return Image.fromarray(grey)


def _brief(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 100 else text[:97] + "..."


def _sniff(data: bytes) -> tuple[str, str]:
    """What a file that is no readable image holds instead, and what to do about it."""
    for start, found, remedy in _KINDS["kinds"]:
        if re.match(start.encode(), data, re.DOTALL):
            return found, _KINDS["remedies"].get(remedy, remedy)
    if not data.strip(b"\0"):
        return f"nothing but {len(data)} zero bytes" if data else "nothing", _AGAIN
    text = codecs.getincrementaldecoder("utf-8")("replace").decode(data[:200])  # silent on a character cut at byte 200
    if text and all(c.isprintable() or c.isspace() for c in text.replace("\ufffd", "\0")):
        return f"text that starts with {' '.join(text.split())[:30]!r}, no image", _AGAIN
    return f"{len(data)} bytes of no known image format", f"{_AGAIN}, or save it as JPEG or PNG"
