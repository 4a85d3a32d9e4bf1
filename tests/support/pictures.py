"""PNG files for tests: reading to RGB, and writing every kind by hand (zlib and struct, nothing else).

PIL writes no interlaced or 16-bit RGB files, and nobody's writer makes the broken ones.
"""

import struct
import zlib

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
GREY, RGB, PALETTE, GREY_ALPHA, RGBA = 0, 2, 3, 4, 6
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def read_rgb(path):
    """uint8 [height, width, 3], as PIL's convert("RGB") gives it."""
    from PIL import Image

    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def equal(one, other):
    """Same pixels; what the files say beside them (their text chunks) may differ."""
    return np.array_equal(read_rgb(one), read_rgb(other))


def chunk(kind, payload=b""):
    return struct.pack(">I", len(payload)) + kind + payload + struct.pack(">I", zlib.crc32(kind + payload))


def header(width, height, depth, colour, interlace=0):
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlace))


def pack_rows(samples, depth):
    """Rows of unfiltered PNG data from integers [height, width, channels]."""
    height = samples.shape[0]
    rows = samples.reshape(height, -1)
    if depth == 16:
        packed = rows.astype(">u2").view(np.uint8).reshape(height, -1)
    elif depth == 8:
        packed = rows.astype(np.uint8)
    else:
        bits = (rows[:, :, None] >> np.arange(depth - 1, -1, -1)) & 1
        packed = np.packbits(bits.reshape(height, -1).astype(np.uint8), axis=1)
    return b"".join(b"\0" + row.tobytes() for row in packed)


def encode(samples, depth, colour, interlaced=False, palette=None, transparency=None):
    """PNG bytes of integer samples [height, width, channels]; palette is uint8 [n, 3]."""
    height, width = samples.shape[:2]
    if interlaced:
        passes = [samples[y::dy, x::dx] for x, y, dx, dy in ADAM7]
        raw = b"".join(pack_rows(part, depth) for part in passes if part.size)
    else:
        raw = pack_rows(samples, depth)
    data = SIGNATURE + header(width, height, depth, colour, int(interlaced))
    if palette is not None:
        data += chunk(b"PLTE", palette.astype(np.uint8).tobytes())
    if transparency is not None:
        data += chunk(b"tRNS", transparency)
    return data + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND")


def scene(width, height):
    """A smooth picture with edges, uint8 [height, width, 3]; the same for the same size."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    u, v = x / max(width - 1, 1), y / max(height - 1, 1)
    picture = np.stack([40 + 180 * u, 200 - 150 * v, 90 + 80 * np.sin(5 * u + 3 * v)], axis=-1)
    picture[(u - 0.6) ** 2 + (v - 0.4) ** 2 < 0.05] = (230, 60, 30)
    picture[(v > 0.75) & (u < 0.5)] = (20, 110, 60)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def kinds(rgb):
    """{name: (PNG bytes, RGB that a reader should give)} for every colour type and depth of interest."""
    grey = rgb[:, :, 1:2].astype(np.int64)
    spread = np.repeat(grey, 3, axis=2).astype(np.uint8)
    alpha = (np.arange(grey.size).reshape(grey.shape) * 7) % 256
    palette = np.array([[(i * 37) % 256, (i * 91) % 256, 255 - i] for i in range(256)], np.uint8)
    index = (grey // 2).astype(np.int64)
    wide = rgb.astype(np.int64) * 257
    four = index % 16
    made = {
        "rgb8": (encode(rgb, 8, RGB), rgb),
        "rgb8-interlaced": (encode(rgb, 8, RGB, interlaced=True), rgb),
        "rgb16": (encode(wide, 16, RGB), rgb),
        "rgb16-interlaced": (encode(wide, 16, RGB, interlaced=True), rgb),
        "rgba8": (encode(np.concatenate([rgb, alpha], axis=2), 8, RGBA), rgb),
        "rgba16": (encode(np.concatenate([wide, alpha * 257], axis=2), 16, RGBA), rgb),
        "grey8": (encode(grey, 8, GREY), spread),
        "grey16": (encode(grey * 257, 16, GREY), spread),
        "grey-alpha8": (encode(np.concatenate([grey, alpha], axis=2), 8, GREY_ALPHA), spread),
        "palette8": (encode(index, 8, PALETTE, palette=palette), palette[index[:, :, 0]]),
        "palette8-interlaced": (encode(index, 8, PALETTE, interlaced=True, palette=palette), palette[index[:, :, 0]]),
        "palette4": (encode(four, 4, PALETTE, palette=palette[:16]), palette[four[:, :, 0]]),
        "palette8-transparent": (
            encode(index, 8, PALETTE, palette=palette, transparency=bytes(range(0, 256, 2))),
            palette[index[:, :, 0]],
        ),
    }
    for depth in (1, 2, 4):
        level = grey >> (8 - depth)
        shown = np.repeat((level * (255 // (2**depth - 1))).astype(np.uint8), 3, axis=2)
        made[f"grey{depth}"] = (encode(level, depth, GREY), shown)
    return made


def bomb(width, height):
    """A small file that claims, and would unpack to, width x height RGB pixels: rows of zeros."""
    packer = zlib.compressobj(9)
    row = bytes(1 + 3 * width)
    packed = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    return SIGNATURE + header(width, height, 8, RGB) + chunk(b"IDAT", packed) + chunk(b"IEND")
