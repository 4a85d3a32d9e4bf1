#!/usr/bin/env python3
"""Writes the seed inputs of the fuzz targets: corpus/{json,safetensors,png}/seed-*.

Small files, each about one feature or one defect of its format. Running it again gives the same bytes. Inputs that
fuzzing found (found-*) lie beside them and are left alone.
"""

import json
import pathlib
import struct
import zlib

CORPUS = pathlib.Path(__file__).resolve().parent / "corpus"


def write(kind, name, data):
    folder = CORPUS / kind
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"seed-{name}").write_bytes(data if isinstance(data, bytes) else data.encode())


def json_seeds():
    return {
        "unet-config": json.dumps(
            {
                "_class_name": "UNet2DConditionModel",
                "block_out_channels": [320, 640, 1280, 1280],
                "norm_eps": 1e-05,
                "act_fn": "silu",
                "center_input_sample": False,
                "upcast": None,
                "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
            },
            indent=2,
        ),
        "job": json.dumps({"kind": "t2i", "prompt": "a café, 夜", "seed": 42, "guidance_scale": 7.5}),
        "vocabulary": json.dumps({f"tok{i}</w>" if i % 2 else f"\u0120{i}": i for i in range(60)}),
        "escapes": '["\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\ud83d\\ude00\\uffff"]',
        "utf8": '["é€😀\u007f\u0080"]',
        "numbers": "[0,-0,1.5,-2e10,3E-7,1e308,5e-324,9007199254740993,0.1e+1]",
        "nested-64": "[" * 64 + "]" * 64,
        "nested-65": "[" * 65 + "]" * 65,
        "objects": '{"a":{"a":{"a":{}}},"b":[{"a":1},{"a":1}],"":{}}',
        "space": " \t\r\n{ \"a\" :\n[ 1 , 2 ] } \n",
        "words": "[true,false,null]",
        "scalar": "1",
        "string": '""',
        "duplicate": '{"a":1,"a":2}',
        "duplicate-escaped": '{"a":1,"\\u0061":2}',
        "nul": b'"a\0b"',
        "nul-escaped": '"\\u0000"',
        "surrogate-lone": '"\\ud800"',
        "utf8-bad": b'"\xed\xa0\x80\xc0\xaf"',
        "overflow": "[1e309]",
        "number-long": "[" + "1" * 64 + "]",
        "trailing": "{} x",
        "bom": b"\xef\xbb\xbf{}",
        "empty": "",
    }


def safetensors_file(header, data=b"", length=None):
    raw = header if isinstance(header, bytes) else json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(raw) if length is None else length) + raw + data


def entry(dtype, shape, begin, end):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def safetensors_seeds():
    floats = struct.pack("<4f", 1.0, -2.0, float("inf"), float("nan"))
    halves = struct.pack("<4H", 0x3C00, 0x0001, 0x7C00, 0x7E01)
    return {
        "empty": safetensors_file({}),
        "f32": safetensors_file({"a.weight": entry("F32", [2, 2], 0, 16)}, floats),
        "f16": safetensors_file({"a": entry("F16", [4], 0, 8)}, halves),
        "bf16": safetensors_file({"a": entry("BF16", [4], 0, 8)}, halves),
        "scalar": safetensors_file({"a": entry("I64", [], 0, 8)}, halves),
        "metadata": safetensors_file({"__metadata__": {"format": "pt", "k": ""}, "a": entry("I32", [1], 0, 4)}, bytes(4)),
        "several": safetensors_file(
            {"b": entry("F16", [4], 16, 24), "z": entry("F32", [0, 3], 16, 16), "a": entry("F32", [4], 0, 16)},
            floats + halves,
        ),
        "odd-address": safetensors_file({"u": entry("U8", [1], 0, 1), "a": entry("F32", [4], 1, 17)}, b"x" + floats),
        "other-dtypes": safetensors_file({"a": entry("F8_E4M3", [3], 0, 3), "b": entry("BOOL", [1], 3, 4)}, bytes(4)),
        "rank-8": safetensors_file({"a": entry("F32", [1] * 8, 0, 4)}, bytes(4)),
        "rank-9": safetensors_file({"a": entry("F32", [1] * 9, 0, 4)}, bytes(4)),
        "padded": safetensors_file(b"{}      "),
        "escaped-names": safetensors_file(
            b'{"\\u0061\\ud83d\\ude00":{"d\\u0074ype":"F32","shape":[1],"data_offsets":[0,4]}}', bytes(4)
        ),
        "hole": safetensors_file({"a": entry("F32", [1], 0, 4), "b": entry("F32", [1], 8, 12)}, bytes(12)),
        "overlap": safetensors_file({"a": entry("F32", [2], 0, 8), "b": entry("F32", [2], 4, 12)}, bytes(12)),
        "outside": safetensors_file({"a": entry("F32", [2], 0, 8)}, bytes(4)),
        "rest": safetensors_file({"a": entry("F32", [1], 0, 4)}, bytes(5)),
        "shape-overflow": safetensors_file({"a": entry("F32", [1 << 32, 1 << 32], 0, 0)}),
        "offset-overflow": safetensors_file({"a": entry("F32", [1], (1 << 64) - 4, 1 << 64)}, bytes(4)),
        "duplicate": safetensors_file(
            b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'
        ),
        "length-huge": safetensors_file({}, length=(1 << 64) - 8),
        "length-short": safetensors_file({}, length=1),
        "cut": safetensors_file({})[:6],
    }


def chunk(kind, data=b""):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


PASSES = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def rows(width, height, depth, kind, interlaced, row_filter=0):
    raw = b""
    for x0, y0, dx, dy in PASSES if interlaced else [(0, 0, 1, 1)]:
        columns = len(range(x0, width, dx))
        for y in range(y0, height, dy) if columns else ():
            size = (columns * depth * CHANNELS[kind] + 7) // 8
            raw += bytes([row_filter]) + bytes((y * 53 + i * 29 + 7) % 256 for i in range(size))
    return raw


def png(width=9, height=7, depth=8, kind=2, interlaced=0, extra=b"", row_filter=0, body=None, end=chunk(b"IEND")):
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, interlaced)
    palette = chunk(b"PLTE", bytes(i * 7 % 256 for i in range(3 << depth))) if kind == 3 else b""
    if body is None:
        body = chunk(b"IDAT", zlib.compress(rows(width, height, depth, kind, interlaced, row_filter)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + palette + extra + body + end


def png_seeds():
    seeds = {}
    for kind, depths in {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 4, 8), 4: (8,), 6: (8, 16)}.items():
        for depth in depths:
            seeds[f"type{kind}-{depth}"] = png(depth=depth, kind=kind)
            if depth in (1, 8):
                seeds[f"type{kind}-{depth}-interlaced"] = png(depth=depth, kind=kind, interlaced=1)
    stream = zlib.compress(rows(9, 7, 8, 2, 0))
    for row_filter in range(1, 5):
        seeds[f"filter{row_filter}"] = png(row_filter=row_filter)
    seeds |= {
        "trns-palette": png(kind=3, extra=chunk(b"tRNS", b"\x00\x80")),
        "trns-rgb": png(extra=chunk(b"tRNS", bytes(6))),
        "text": png(extra=chunk(b"tEXt", b"parameters\0a cat") + chunk(b"iTXt", b"k\0\0\0\0\0\xc3\xa9")),
        "profile": png(extra=chunk(b"iCCP", b"name\0\0" + zlib.compress(bytes(1000)))),
        "two-pieces": png(body=chunk(b"IDAT", stream[:20]) + chunk(b"IDAT", stream[20:])),
        "one-pixel": png(1, 1),
        "cut": png()[:-30],
        "no-end": png(end=b""),
        "few-rows": png(body=chunk(b"IDAT", zlib.compress(rows(9, 3, 8, 2, 0)))),
        "many-rows": png(body=chunk(b"IDAT", zlib.compress(rows(9, 30, 8, 2, 0)))),
        "bad-filter": png(row_filter=9),
        "bad-crc": png()[:-1] + b"x",
        "huge": png(1 << 20, 1 << 20, body=b""),
        "bad-depth": png(depth=4, kind=0, body=chunk(b"IDAT", b"")),
        "jpeg": b"\xff\xd8\xff\xe0\x00\x10JFIF\0",
        "webp": b"RIFF\x10\0\0\0WEBPVP8 ",
    }
    return seeds


def main():
    for kind, seeds in (("json", json_seeds()), ("safetensors", safetensors_seeds()), ("png", png_seeds())):
        for name, data in seeds.items():
            write(kind, name, data)
        print(f"{kind}: {len(seeds)} seeds, {sum(len(d) for d in seeds.values())} bytes")


if __name__ == "__main__":
    main()
