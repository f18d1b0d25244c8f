"""Bytes to pixels: the sizes and colours of Qwen's own processor, and files that are meant to do harm."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image

from engine.errors import InvalidRequestError, RequestError
from engine.model_spec import VisionSpec
from engine.pictures import decoder as decoder_module
from engine.pictures import loader as loader_module
from engine.pictures.decode_program import decoded
from engine.pictures.decoder import Decoder
from engine.pictures.loader import PictureLoader
from engine.pictures.sizes import scaled_size
from engine.pictures.source import MAX_BYTES
from engine.request import ImageSource, Picture, RerankCall
from tests.support.pictures import data_url, encoded, picture

VISION = VisionSpec(
    block=32,
    min_pixels=4 * 32**2,
    max_pixels=1800 * 32**2,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    before=(1,),
    behind=(2,),
    image_id=3,
    max_images=4,
)


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    made = Decoder()
    yield made
    made.close()


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(decoded(data, VISION.block, VISION.min_pixels, VISION.max_pixels))


def test_sizes_are_those_of_the_processor() -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

    for height in (1, 16, 47, 48, 80, 333, 1080, 4000):
        for width in (1, 31, 112, 144, 720, 5000):
            if max(height, width) / min(height, width) <= 200:
                for least, most in ((4096, 1_843_200), (65_536, 16_777_216), (1024, 4096)):
                    expected = smart_resize(height, width, 32, least, most)
                    assert scaled_size(height, width, 32, least, most) == expected
    with pytest.raises(ValueError, match="200 times"):
        scaled_size(1, 201, 32, 4096, 10**6)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp"])
def test_pixels_are_those_of_the_processor(kind: str) -> None:
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    size = {"shortest_edge": VISION.min_pixels, "longest_edge": VISION.max_pixels}
    processor = Qwen2VLImageProcessorPil(patch_size=16, size=size, do_rescale=False, do_normalize=False)
    for height, width in ((100, 150), (40, 30), (64, 64)):
        data = encoded(picture(height, width), kind)
        expected = processor(Image.open(io.BytesIO(data)), return_tensors="np")["pixel_values"].reshape(
            -1, 3, 2, 16, 16
        )
        found = pixels(data)
        rows, columns = found.shape[0] // 32, found.shape[1] // 32
        tiles = found.reshape(rows, 2, 16, columns, 2, 16, 3).transpose(0, 3, 1, 4, 6, 2, 5).reshape(-1, 3, 16, 16)
        np.testing.assert_array_equal(tiles, expected[:, :, 0])


def test_upright_on_white_in_three_colours() -> None:
    clear = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
    assert (pixels(encoded(clear)) == 255).all()
    for mode in ("L", "P", "1", "LA", "CMYK"):
        found = pixels(encoded(picture(64, 64).convert(mode), "jpeg" if mode == "CMYK" else "png"))
        assert found.shape == (64, 64, 3)
    turned, exif = picture(64, 128), Image.Exif()
    exif[0x0112] = 6
    assert pixels(encoded(turned, "jpeg", exif=exif.tobytes())).shape == (128, 64, 3)
    with pytest.raises(ValueError, match="8 bits"):
        pixels(encoded(Image.fromarray(np.zeros((64, 64), np.uint16))))


def bomb(width: int, height: int) -> bytes:
    """A small png that claims to be large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


def animation(kind: str) -> bytes:
    file = io.BytesIO()
    frames = [picture(64, 64, seed) for seed in range(2)]
    frames[0].save(file, kind, save_all=True, append_images=frames[1:])
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (bomb(60_000, 60_000), "million pixels"),
        (bomb(9_000, 9_000), "million pixels"),
        (bomb(5_000, 5_000), "damaged"),
        (bomb(4_000, 10), "200 times"),
        (bomb(0, 10), "cannot be read"),
        (animation("webp"), "animation"),
        (animation("png"), "animation"),
        (encoded(picture(8, 8), "gif"), "no png, jpeg or webp"),
        (encoded(picture(8, 8), "bmp"), "no png, jpeg or webp"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no png, jpeg or webp"),
        (b"%!PS-Adobe-3.0 EPSF", "no png, jpeg or webp"),
        (encoded(picture(64, 64), "jpeg")[:200], "cannot be read"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_files_that_are_refused(decoder: Decoder, data: bytes, named: str) -> None:
    with pytest.raises(InvalidRequestError, match=named):
        decoder.decode(data, VISION)
    assert decoder.decode(encoded(picture(64, 64)), VISION).shape == (64, 64, 3)


def test_a_file_that_breaks_its_decoder_costs_itself_alone(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    good = encoded(picture(64, 64))
    assert decoder.decode(good, VISION).shape == (64, 64, 3)
    with monkeypatch.context() as context:
        context.setattr(decoder_module, "PROGRAM", "antigravity_that_is_not_there")
        decoder.close()
        with pytest.raises(InvalidRequestError, match="breaks its decoder"):
            decoder.decode(good, VISION)
        context.setattr(decoder_module, "PROGRAM", "timeit")  # waits for nothing that a decoder says
        context.setattr(decoder_module, "TIMEOUT_S", 0.5)
        with pytest.raises(InvalidRequestError, match="too much time"):
            decoder.decode(good, VISION)
    assert decoder.decode(good, VISION).shape == (64, 64, 3)
    process = decoder._process
    assert process is not None
    process.kill()
    process.wait()
    assert decoder.decode(good, VISION).shape == (64, 64, 3), "one that ended is followed by another"


def test_a_call_has_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader_module, "MAX_CALL_ROWS", 10)
    loader = PictureLoader(VISION, ())
    first, second, third = (data_url(picture(64, 64, seed)) for seed in range(3))
    call = RerankCall(
        queries=["q"], documents=["", "", ""], document_images=[(ImageSource(one),) for one in (first, second, third)]
    )
    found = loader.load_all(call)
    assert found is not None
    assert [isinstance(one, Picture) for one in found.values()] == [True, True, False]
    assert isinstance(found[third], RequestError)
    assert "10 tokens together" in str(found[third])
    large = loader.load("data:image/png;base64," + "A" * (MAX_BYTES // 3 * 4 + 8))
    assert isinstance(large, RequestError)
    assert (large.status, "20 MiB" in str(large)) == (413, True)
    bare = loader.load(data_url(picture(64, 64)).partition(",")[2])
    assert isinstance(bare, Picture)
    loader.close()
