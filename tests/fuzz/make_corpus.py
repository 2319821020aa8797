#!/usr/bin/env python3
"""Writes the seed corpus of fuzz_files: tiny well-formed and broken .npy and .safetensors files. Standard library only."""
import json
import pathlib
import struct

FOLDER = pathlib.Path(__file__).resolve().parent / "corpus_files"


def npy(descr, shape, data, version=1, order=False, header=None):
    text = header or f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}"
    encoded = text.encode() + b"\n"
    length = struct.pack("<H" if version == 1 else "<I", len(encoded))
    return b"\x93NUMPY" + bytes([version, 0]) + length + encoded + data


def safetensors(header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


FILES = {
    "f32.npy": npy("<f4", "(2, 3)", struct.pack("<6f", *range(6))),
    "f16_v2.npy": npy("<f2", "(4,)", struct.pack("<4e", 1, 2, 3, 4), version=2),
    "i64_v3.npy": npy("<i8", "(1,)", struct.pack("<q", 7), version=3),
    "bool.npy": npy("|b1", "(3,)", b"\1\0\1"),
    "u64.npy": npy("<u8", "(1, 1)", struct.pack("<Q", 5)),
    "scalar.npy": npy("<i4", "()", struct.pack("<i", 5)),
    "empty.npy": npy("<f4", "(0, 9223372036854775807)", b""),
    "huge.npy": npy("<f4", "(4611686018427387904, 4611686018427387904)", b""),
    "negative.npy": npy("<f4", "(-1, 2)", b""),
    "fortran.npy": npy("<f4", "(2, 2)", struct.pack("<4f", 1, 2, 3, 4), order=True),
    "structured.npy": npy("", "", b"", header="{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }"),
    "x.safetensors": safetensors({"x": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}, b"\x80\x3f\0\x40"),
    "bool.safetensors": safetensors({"__metadata__": {"a": "b"}, "x": {"dtype": "BOOL", "shape": [1], "data_offsets": [0, 1]}}, b"\1"),
    "outside.safetensors": safetensors({"x": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}}, b""),
    "deep.safetensors": safetensors(b"[" * 200, b""),
    "other.safetensors": safetensors({"y": {"dtype": "F32", "shape": [], "data_offsets": [0, 4]}}, b"\0\0\0\0"),
}


def main():
    FOLDER.mkdir(exist_ok=True)
    for name, content in FILES.items():
        (FOLDER / name).write_bytes(content)
    (FOLDER / "truncated.npy").write_bytes(FILES["f32.npy"][:-4])
    (FOLDER / "cut_header.npy").write_bytes(FILES["f32.npy"][:20])


if __name__ == "__main__":
    main()
