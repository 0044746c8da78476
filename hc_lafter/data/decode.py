"""One image file in, one 8-bit RGB picture out, or one sentence that says what the file is and how to mend it."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, JpegImagePlugin, UnidentifiedImageError

MAX_PIXELS = 89_478_485  # the size from which Pillow warns of a decompression bomb: 256 MiB as RGB
MAX_BYTES = 2**30  # no photograph is larger as a file; beyond it somebody has renamed a video or an archive
RULES = 1  # raise when a change here changes the pixels that a file decodes to: part of every data fingerprint

# The formats a photograph comes in, each told by its first bytes. Left out on purpose: EPS (Pillow would start
# Ghostscript) and formats without a signature (TGA, XBM), which "recognise" text and noise. HEIF counts where the user
# has registered pillow-heif.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000", "ICO", "QOI", "HEIF")

_TURNS = {  # the EXIF orientation tag -> what brings the picture upright (CIPA DC-008, section 4.6.4, tag 274)
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_AGAIN = "fetch it again or delete it"
_CONVERT = "convert it to JPEG or PNG"
_SIGNATURES = (  # how the file starts, what it is, how to mend it
    (b"\xff\xd8\xff", "a JPEG image with a damaged header", _AGAIN),
    (b"\x89PNG", "a PNG image with a damaged header", _AGAIN),
    (b"GIF8", "a GIF image with a damaged header", _AGAIN),
    (b"BM", "a BMP image with a damaged header", _AGAIN),
    (b"II*\0", "a TIFF image with a damaged header or a layout that Pillow does not read", _CONVERT),
    (b"MM\0*", "a TIFF image with a damaged header or a layout that Pillow does not read", _CONVERT),
    (
        b"version https://git-lfs",
        "a Git LFS pointer instead of the image",
        "run git lfs pull in their repository",
    ),
    (b"%PDF", "a PDF document", _CONVERT),
    (b"%!PS", "a PostScript document", _CONVERT),
    (b"8BPS", "a Photoshop document", _CONVERT),
    (b"PK\x03\x04", "a zip archive", "unpack it"),
    (b"\x1f\x8b", "a gzip archive", "unpack it"),
)


class BadImage(ValueError):
    """An image file that cannot be decoded; reads as one sentence.

    Attributes:
        name: the file.
        found: what was found there, a verb first ("is empty (0 bytes)").
        mend: what to do about it.
    """

    def __init__(self, name: str, found: str, mend: str):
        super().__init__(name, found, mend)  # all three, so that the exception survives a worker process's pickle
        self.name, self.found, self.mend = name, found, mend

    def __str__(self) -> str:
        return f"{self.name} {self.found}: {self.mend}."


def read(path: str | Path) -> bytes:
    """The bytes of an image file.

    Raises:
        BadImage: missing, a folder, no regular file, not permitted, empty, or larger than ``MAX_BYTES``.
    """
    path, name = Path(path), str(path)
    try:
        if path.is_dir():
            raise BadImage(name, "is a folder with the name of an image", "rename it, or move its images one level up")
        if path.exists() and not path.is_file():
            raise BadImage(name, "is a device or a pipe", "put a regular file in its place")
        if path.stat().st_size > MAX_BYTES:
            size = path.stat().st_size / 2**30
            raise BadImage(name, f"is {size:.1f} GiB long, more than any image", "move it out of the data set")
        data = path.read_bytes()
    except FileNotFoundError:
        raise BadImage(name, "does not exist", "correct the path or fetch the file") from None
    except OSError as error:
        raise BadImage(
            name, f"cannot be read ({error.strerror or error})", "check its permissions and its disk"
        ) from error
    if not data:
        raise BadImage(name, "is empty (0 bytes)", _AGAIN)
    return data


def decode(source: str | Path | bytes, *, max_pixels: int = MAX_PIXELS, name: str | None = None) -> Image.Image:
    """The first frame of an image file as 8-bit RGB, upright.

    The format is told from the content, never from the extension. EXIF orientation is applied; transparency is laid on
    white; 16 bits become 8 by round(v / 257) (16-bit colour PNG and TIFF: Pillow's high byte, which differs by at most
    one level); floats must lie in 0..1 and become round(255 v); everything else is Pillow's ``convert("RGB")``. An
    embedded ICC profile is not applied, because the pipelines that CLIP was trained with do not apply it.

    Args:
        source: a path, or the bytes of a file.
        max_pixels: width x height above which nothing is decoded. A baseline JPEG above it is decoded at the first of
            1/2, 1/4, 1/8 of its size that fits (the decoder never holds the large picture); all else is refused.
        name: what errors call the image; default the path.

    Raises:
        BadImage: the file is missing, empty, cut short, damaged, too large, or no image.
    """
    if max_pixels < 1:
        raise ValueError(f"max_pixels is {max_pixels}: give a positive number of pixels.")
    if isinstance(source, bytes):
        data, name = source, name or "<bytes>"
        if not data:
            raise BadImage(name, "is empty (0 bytes)", _AGAIN)
    else:
        data, name = read(source), name or str(source)
    # Pillow's parsers meet bytes of any origin here and raise nearly any exception over them (OSError, SyntaxError,
    # struct.error, KeyError ...): whatever it is, the file is what the user has to mend.
    try:
        image = _open(data)
    except UnidentifiedImageError:
        what, mend = _sniff(data)
        raise BadImage(name, f"holds {what}", mend) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise BadImage(name, f"is too large to decode ({error})", _too_large(max_pixels)) from None
    except Exception as error:
        raise BadImage(name, f"cannot be opened as an image ({_brief(error)})", _AGAIN) from error
    if image.width * image.height > max_pixels:
        _shrink(image, max_pixels)
        if image.width * image.height > max_pixels:
            found = f"is {image.width} x {image.height} pixels, more than the limit of {max_pixels}"
            raise BadImage(name, found, _too_large(max_pixels))
    try:
        image.load()
    except Exception as error:
        found = f"is a {image.format} image that is cut short or damaged ({_brief(error)})"
        raise BadImage(name, found, _AGAIN) from error
    turn = _TURNS.get(_orientation(image))
    rgb = _rgb(image, name)
    rgb = rgb if turn is None else rgb.transpose(turn)
    rgb.info = {}  # the orientation tag would travel along, and the next reader would turn the picture once more
    return rgb


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


def _shrink(image: Image.Image, max_pixels: int) -> None:
    # A progressive JPEG keeps the coefficients of the whole picture whatever the output scale, so it gains nothing.
    if image.format != "JPEG" or image.info.get("progressive"):
        return
    width, height = image.size
    for scale in (2, 4, 8):
        if -(-width // scale) * -(-height // scale) <= max_pixels:
            image.draft(None, (max(1, width // scale), max(1, height // scale)))
            return


def _too_large(max_pixels: int) -> str:
    return f"make it smaller, save it as a baseline JPEG, or raise max_pixels ({max_pixels})"


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(0x0112, 1)
    except Exception:  # a broken EXIF block says nothing, and the pixels beside it are whole: leave them
        return 1


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
    """What a file that is no readable image holds instead, and the mend."""
    for start, what, mend in _SIGNATURES:
        if data.startswith(start):
            return what, mend
    if not data.strip(b"\0"):
        return f"nothing but {len(data)} zero bytes", _AGAIN
    if data[4:8] == b"ftyp":
        if data[8:12] in (b"heic", b"heix", b"heif", b"mif1", b"msf1"):
            return "an HEIC photograph, which Pillow does not read", _CONVERT
        if data[8:12] in (b"avif", b"avis"):
            return "an AVIF image that is damaged, or that this build of Pillow does not read", _CONVERT
        return "a video", "take a frame of it, or delete it"
    if data.startswith(b"RIFF"):
        return ("a damaged WebP image", _AGAIN) if data[8:12] == b"WEBP" else ("a video or a sound", "delete it")
    head = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return "an HTML page, no image", "fetch it again (a download saved the error page in its place) or delete it"
    if head.startswith((b"<?xml", b"<svg")):
        return "XML text such as SVG, no pixels", _CONVERT
    try:
        text = data[:200].decode("utf-8")
    except UnicodeDecodeError as error:
        text = data[: error.start].decode("utf-8") if error.start >= 197 else ""  # a character cut at byte 200
    if text and all(c.isprintable() or c.isspace() for c in text):
        return f"text that starts with {' '.join(text.split())[:30]!r}, no image", _AGAIN
    return f"{len(data)} bytes of no known image format", f"{_AGAIN}, or save it as JPEG or PNG"
