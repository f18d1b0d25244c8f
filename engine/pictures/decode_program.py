"""Decodes pictures for the process that started this one, within limits on time and memory.

Decoders are where hostile files do their harm. Here they cost one picture: what breaks, or takes too long, breaks this
process. A job is a line of JSON (``size``: bytes that follow; ``block``, ``min_pixels``, ``max_pixels``) and the
encoded picture; the answer a line of JSON, ``height`` and ``width`` with the red, green and blue bytes behind it, or
``error``. It ends when nothing comes for a while.
"""

from __future__ import annotations

import io
import json
import resource
import select
import sys
from typing import Any

from PIL import Image, ImageOps, UnidentifiedImageError

from engine.pictures.sizes import scaled_size

CPU_S = 10
"""Of computing for one picture."""
MEMORY_BYTES = 3 * 2**29
IDLE_S = 30.0
MAX_PIXELS = 64_000_000
FORMATS = ("PNG", "JPEG", "WEBP")
ERRORS = (OSError, SyntaxError, ValueError, ArithmeticError, LookupError, TypeError, EOFError, MemoryError)


def decoded(data: bytes, block: int, least: int, most: int) -> Image.Image:
    """The only frame, upright, on white, in red, green and blue, scaled. Raises ``ValueError`` and ``OSError``."""
    Image.MAX_IMAGE_PIXELS = MAX_PIXELS
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ValueError(f"it has more than {MAX_PIXELS // 10**6} million pixels")
        if getattr(image, "n_frames", 1) > 1:
            raise ValueError("it is an animation")
        scaled_size(image.height, image.width, block, least, most)  # refuses what is too long before it is decoded
        image.load()
        plain = on_white(ImageOps.exif_transpose(image))
    high, wide = scaled_size(plain.height, plain.width, block, least, most)
    return plain if plain.size == (wide, high) else plain.resize((wide, high), Image.Resampling.BICUBIC)


def on_white(image: Image.Image) -> Image.Image:
    """Converts a picture to red, green and blue; what is transparent becomes white.

    Raises ``ValueError`` for pixels of more than 8 bits.
    """
    if image.mode.startswith(("I", "F")):
        raise ValueError("its pixels have more than 8 bits")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        clear = image.convert("RGBA")
        white = Image.new("RGB", image.size, (255, 255, 255))
        white.paste(clear, mask=clear.getchannel("A"))
        return white
    return image.convert("RGB")


def answer(job: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    """The line and the bytes behind it."""
    try:
        image = decoded(data, job["block"], job["min_pixels"], job["max_pixels"])
    except UnidentifiedImageError:
        return {"error": "it is no png, jpeg or webp, or it is damaged"}, b""
    except Image.DecompressionBombError:
        return {"error": f"it has more than {MAX_PIXELS // 10**6} million pixels"}, b""
    except MemoryError:
        return {"error": "it takes too much memory to decode"}, b""
    except ValueError as error:
        return {"error": f"{error}"[:200]}, b""
    except ERRORS:
        return {"error": "it is damaged"}, b""
    return {"height": image.height, "width": image.width}, image.tobytes()


def main() -> None:
    """Answers jobs until none comes."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    Image.init()
    source, target = sys.stdin.buffer, sys.stdout.buffer
    while select.select([source], [], [], IDLE_S)[0] and (line := source.readline()):
        used = resource.getrusage(resource.RUSAGE_SELF)
        limit = int(used.ru_utime + used.ru_stime) + CPU_S
        resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
        job = json.loads(line)
        head, pixels = answer(job, source.read(job["size"]))
        target.write(json.dumps(head).encode() + b"\n" + pixels)
        target.flush()


if __name__ == "__main__":
    main()
