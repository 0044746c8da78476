"""One image file in, one RGB picture out: every kind of file that a folder in the wild holds."""

import io
import pickle
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile, ImageOps

from hc_lafter.data.decode import BadImage, decode, pixel_hash

RNG = np.random.default_rng(7)
COLOUR = RNG.integers(0, 256, (6, 4, 3), dtype=np.uint8)  # [height, width, 3]: not square, so that a wrong turn shows


def encode(image, kind="PNG", **options):
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(data, **options):
    image = decode(data, **options)
    assert image.mode == "RGB" and type(image) is Image.Image
    return np.asarray(image)


def png_header(width, height, bits=8, colour=2):
    """A PNG of any size that holds no pixels: what a decompression bomb looks like from the front."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


# ---------------------------------------------------------------- what decodes


HAND_TURNED = {  # the six-line definition of the tag in CIPA DC-008: where row 0 and column 0 lie in the stored array
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
    8: lambda a: a.transpose(1, 0, 2)[::-1],
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", HAND_TURNED)
def test_exif_orientation_equals_the_hand_turned_array(orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(COLOUR, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    image = decode(data)
    np.testing.assert_array_equal(np.asarray(image), HAND_TURNED[orientation](COLOUR))
    # The tag is spent: a reader who turns the picture once more must not succeed.
    np.testing.assert_array_equal(np.asarray(ImageOps.exif_transpose(image)), np.asarray(image))


def test_orientation_of_a_jpeg_and_of_grey_and_transparent_images():
    exif = Image.Exif()
    exif[0x0112] = 6
    plain = encode(COLOUR, "JPEG", quality=95)
    np.testing.assert_array_equal(pixels(encode(COLOUR, "JPEG", quality=95, exif=exif)), HAND_TURNED[6](pixels(plain)))
    deep = (COLOUR[..., 0].astype(np.uint16) * 257)[..., None]
    np.testing.assert_array_equal(
        pixels(encode(deep[..., 0], exif=exif)), HAND_TURNED[6](COLOUR[..., :1].repeat(3, axis=2))
    )


def test_damaged_exif_leaves_the_picture_as_it_is():
    data = encode(COLOUR, "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xffgarbage")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        np.testing.assert_array_equal(pixels(data), pixels(encode(COLOUR, "JPEG")))


def test_grey_bilevel_and_palette():
    grey = COLOUR[..., 0]
    np.testing.assert_array_equal(pixels(encode(grey)), np.stack([grey] * 3, -1))
    np.testing.assert_array_equal(pixels(encode(Image.fromarray(grey > 128))), np.stack([(grey > 128) * 255] * 3, -1))
    palette = Image.fromarray(COLOUR).quantize(24)  # 24 pixels, so at most 24 colours: nothing is lost
    np.testing.assert_array_equal(pixels(encode(palette)), np.asarray(palette.convert("RGB")))


def test_cmyk_equals_pillows_conversion():
    inks = Image.fromarray(RNG.integers(0, 256, (6, 4, 4), dtype=np.uint8), "CMYK")
    np.testing.assert_array_equal(pixels(encode(inks, "TIFF")), np.asarray(inks.convert("RGB")))
    data = encode(inks, "JPEG")  # stored inverted, the way Adobe does
    np.testing.assert_array_equal(pixels(data), np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_alpha_is_composited_on_white():
    rgba = RNG.integers(0, 256, (6, 4, 4), dtype=np.uint8)
    alpha = rgba[..., 3:] / 255
    for kind in ("PNG", "TIFF"):
        got = pixels(encode(rgba, kind)).astype(float)
        assert np.abs(got - (rgba[..., :3] * alpha + 255 * (1 - alpha))).max() <= 1
    grey = np.asarray(Image.fromarray(rgba[..., [0, 3]], "LA"))
    got = pixels(encode(Image.fromarray(grey, "LA")))[..., 0]
    assert np.abs(got - (grey[..., 0] * alpha[..., 0] + 255 * (1 - alpha[..., 0]))).max() <= 1
    clear = np.zeros((2, 2, 4), np.uint8)  # black and wholly transparent: dropped alpha would make it black
    assert (pixels(encode(clear)) == 255).all()


def test_transparent_colour_of_palette_grey_and_deep_grey():
    palette = Image.new("P", (3, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putdata([0, 1, 0])
    for kind in ("PNG", "GIF"):
        np.testing.assert_array_equal(
            pixels(encode(palette, kind, transparency=1))[0], [[10, 20, 30], [255, 255, 255], [10, 20, 30]]
        )
    np.testing.assert_array_equal(pixels(encode(np.uint8([[0, 9, 200]]), transparency=9))[0, :, 0], [0, 255, 200])
    deep = np.uint16([[0, 9, 51400]])
    np.testing.assert_array_equal(pixels(encode(deep, transparency=9))[0, :, 0], [0, 255, 200])


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_and_not_clipped(kind):
    deep = RNG.integers(0, 65536, (9, 13), dtype=np.uint16)
    deep[0, :3] = 0, 65535, 256  # 256 clips to 255 in Pillow's own conversion, and is 1
    np.testing.assert_array_equal(pixels(encode(deep, kind))[..., 1], np.rint(deep / 257).astype(np.uint8))


def test_sixteen_bit_colour_is_within_one_level():
    cv2 = pytest.importorskip("cv2")
    deep = RNG.integers(0, 65536, (9, 13, 3), dtype=np.uint16)
    for extension in (".png", ".tiff"):
        got = pixels(cv2.imencode(extension, deep)[1].tobytes()).astype(int)
        assert np.abs(got[..., ::-1] - deep / 257).max() <= 1


def test_float_tiff():
    unit = RNG.random((4, 5)).astype(np.float32)
    np.testing.assert_array_equal(pixels(encode(unit, "TIFF"))[..., 2], np.rint(unit * 255.0).astype(np.uint8))
    for bad in (unit * 300, unit - 1, np.full_like(unit, np.nan)):
        with pytest.raises(BadImage, match=r"holds floats from .* only 0\.\.1 has a known brightness: rescale"):
            decode(encode(bad, "TIFF"))


def test_32_bit_integers_need_a_known_range():
    with pytest.raises(BadImage, match=r"32-bit integers from 0 to 70000.*0\.\.65535"):
        decode(encode(np.int32([[0, 70000]]), "TIFF"))


def test_lab_and_icc():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    np.testing.assert_array_equal(pixels(encode(COLOUR, icc_profile=profile)), COLOUR)
    np.testing.assert_array_equal(pixels(encode(COLOUR, icc_profile=b"no profile at all")), COLOUR)
    muted = COLOUR // 4 + 96  # 8-bit LAB cannot hold the corners of sRGB
    lab = ImageCms.profileToProfile(
        Image.fromarray(muted), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert np.abs(pixels(encode(lab, "TIFF")).astype(int) - muted).max() <= 4  # there and back through 8 bits


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF", "AVIF"])
def test_animated_images_give_their_first_frame(kind):
    frames = [Image.new("RGB", (20, 16), c) for c in ("red", "lime", "blue")]
    data = encode(frames[0], kind, save_all=True, append_images=frames[1:])
    assert Image.open(io.BytesIO(data)).n_frames == 3
    assert np.abs(pixels(data).astype(int) - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000", "ICO", "AVIF"])
def test_one_pixel(kind):
    assert pixels(encode(Image.new("RGB", (1, 1), "white"), kind)).shape == (1, 1, 3)


def test_content_decides_and_not_the_extension(tmp_path):
    path = tmp_path / "really-a-png.jpg"
    path.write_bytes(encode(COLOUR))
    np.testing.assert_array_equal(np.asarray(decode(path)), COLOUR)
    np.testing.assert_array_equal(np.asarray(decode(str(path))), COLOUR)


# ---------------------------------------------------------------- sizes


def test_a_large_jpeg_is_decoded_at_a_reduced_size():
    photo = Image.fromarray(np.full((600, 1000, 3), 90, np.uint8))
    data = encode(photo, "JPEG")
    assert decode(data).size == (1000, 600)
    assert decode(data, max_pixels=600_000).size == (1000, 600)
    assert decode(data, max_pixels=599_999).size == (500, 300)
    assert decode(data, max_pixels=149_999).size == (250, 150)
    assert decode(data, max_pixels=10_000).size == (125, 75)
    assert np.abs(pixels(data, max_pixels=10_000).astype(int) - 90).max() <= 1
    with pytest.raises(BadImage, match="more than the limit of 9000: make it smaller"):
        decode(data, max_pixels=9_000)
    with pytest.raises(BadImage, match="is 1000 x 600 pixels, more than the limit of 10000"):
        decode(encode(photo, "JPEG", progressive=True), max_pixels=10_000)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [10_000, 30_000])  # above where Pillow warns; above where it refuses by itself
def test_a_decompression_bomb_is_refused_by_its_header(side):
    with pytest.raises(BadImage, match=r"(more than the limit|too large).*: make it smaller, or save"):
        decode(png_header(side, side, bits=1, colour=0))


def test_a_200_megapixel_jpeg_is_decoded_at_half_its_size():
    # Pillow's Image.open refuses this size before a reduced decode can be asked for. The scan data are a small
    # picture's: libjpeg fills the rest with grey, which spares the test an encoding of 200 megapixels.
    data = bytearray(encode(Image.new("RGB", (64, 64)), "JPEG"))
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = struct.pack(">HH", 12240, 16320)
    assert decode(bytes(data)).size == (8160, 6120)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


@pytest.mark.parametrize("place", [b"IDAT", b"IEND"])
@pytest.mark.parametrize(
    ("kind", "head"), [(b"iCCP", b"icc\0\0"), (b"zTXt", b"note\0\0"), (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0")]
)
def test_what_stands_beside_the_pixels_of_a_png_is_no_reason_to_lose_them(kind, head, place):
    png = encode(COLOUR)
    at = png.index(place) - 4
    large = png[:at] + chunk(kind, head + zlib.compress(b"x" * 3_000_000)) + png[at:]
    assert pixel_hash(decode(large)) == pixel_hash(decode(png))
    with pytest.raises(BadImage, match="more than the limit of 10"):
        decode(large, max_pixels=10)


# ---------------------------------------------------------------- what is refused, by name


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF"])
@pytest.mark.parametrize("part", [0.95, 0.5, 0.1, 0.01])
@pytest.mark.filterwarnings("ignore:Corrupt EXIF")
def test_truncated_files_are_refused(kind, part):
    data = encode(RNG.integers(0, 256, (64, 48, 3), dtype=np.uint8), kind)
    with pytest.raises(BadImage, match=r"^cut\.jpg .*: .*\.$"):
        decode(data[: int(part * len(data))], name="cut.jpg")
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


REFUSED = {
    "empty": (b"", r"is empty \(0 bytes\)|nothing:"),
    "zeros": (bytes(4096), "nothing but 4096 zero bytes"),
    "html": (b"\n<!DOCTYPE html><html><body>404 Not Found</body></html>", "holds an HTML page, no image"),
    "html-bom": (b"\xef\xbb\xbf<html>gone</html>", "holds an HTML page"),
    "text": (b"this photo is no longer available", "holds text that starts with 'this photo is no longer availa'"),
    "text-umlauts": ("ä".encode() * 300, "holds text that starts with 'äää"),
    "json": (b'{"error": "quota exceeded"}', r"""holds text that starts with '\{"error": "quota exceeded"\}'"""),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n", "Git LFS pointer.*git lfs pull"),
    "svg": (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
    "pdf": (b"%PDF-1.7\n%\xe2\xe3", "PDF"),
    "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "PostScript"),
    "zip": (b"PK\x03\x04" + bytes(30), "zip archive: unpack"),
    "gzip": (b"\x1f\x8b\x08" + bytes(30), "gzip archive: unpack"),
    "heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(50), "HEIC photograph.*convert it to JPEG"),
    "video": (b"\0\0\0\x18ftypisom" + bytes(50), "video"),
    "avi": (b"RIFF\0\0\0\0AVI LIST" + bytes(50), "video"),
    "noise": (bytes(np.random.default_rng(3).integers(128, 256, 500, dtype=np.uint8)), "500 bytes of no known image"),
    "psd": (b"8BPS\0\x01" + bytes(40), "Photoshop"),
    "xbm": (b"#define x_width 8\n#define x_height 1\nstatic char x_bits[] = {0x1};\n", "holds text"),
    "jpeg-stub": (b"\xff\xd8\xff", "JPEG|opened as an image"),
    "png-stub": (b"\x89PNG\r\n\x1a\n", "PNG image with a damaged header"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_image_is_named(kind, tmp_path):
    data, message = REFUSED[kind]
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    for source, options in ((path, {}), (data, {"name": str(path)})):
        with pytest.raises(BadImage, match=message) as caught:
            decode(source, **options)
        text = str(caught.value)
        assert text.startswith(f"{path} ") and text.endswith(".") and "\n" not in text
        assert str(pickle.loads(pickle.dumps(caught.value))) == text  # it has to cross from a worker process


def test_a_folder_a_missing_file_and_bytes_without_a_name(tmp_path):
    (tmp_path / "x.jpg").mkdir()
    with pytest.raises(BadImage, match=r"x\.jpg is a folder with the name of an image: rename it"):
        decode(tmp_path / "x.jpg")
    with pytest.raises(BadImage, match=r"y\.jpg does not exist: correct the path"):
        decode(tmp_path / "y.jpg")
    with pytest.raises(BadImage, match=r"^<bytes> holds nothing:"):
        decode(b"")


def test_an_overlong_file_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("hc_lafter.data.decode.MAX_BYTES", 100)
    (tmp_path / "film.jpg").write_bytes(bytes(101))
    with pytest.raises(BadImage, match=r"film\.jpg is 0\.0 GiB long, more than any image"):
        decode(tmp_path / "film.jpg")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "ICO", "AVIF", "JPEG2000", "QOI"])
@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_give_a_picture_or_a_bad_image_and_nothing_else(kind):
    rng = np.random.default_rng(11)
    sources = [encode(COLOUR, kind), encode(RNG.integers(0, 256, (40, 50, 3), dtype=np.uint8), kind)]
    if kind in ("PNG", "GIF", "TIFF", "WEBP"):
        sources.append(encode(Image.fromarray(COLOUR).convert("RGBA"), kind))
    outcomes = set()
    for trial in range(60):
        data = np.frombuffer(sources[trial % len(sources)], np.uint8).copy()
        where = rng.integers(0, min(len(data), 80 if trial % 2 else len(data)), rng.integers(1, 6))
        data[where] = rng.integers(0, 256, len(where))
        try:
            outcomes.add(decode(data.tobytes(), max_pixels=100_000).mode)
        except BadImage as error:
            assert str(error).count("\n") == 0
            outcomes.add("refused")
    assert "refused" in outcomes and outcomes <= {"RGB", "refused"}


def test_pixel_hash_sees_pixels_and_shape_only():
    image = Image.fromarray(COLOUR)
    same = {pixel_hash(decode(encode(COLOUR, kind))) for kind in ("PNG", "BMP", "TIFF")}
    assert same == {pixel_hash(image)}
    assert pixel_hash(image) != pixel_hash(Image.fromarray(COLOUR.reshape(4, 6, 3)))
    other = COLOUR.copy()
    other[0, 0, 0] ^= 1
    assert pixel_hash(image) != pixel_hash(Image.fromarray(other))
