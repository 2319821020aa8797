"""Arrays for the program's tests without NumPy: .npy and .safetensors files written and read with the standard library, element types
rounded as they should be."""
import json
import math
import struct

CODES = {"<f4": "f", "<f2": "e", "<i4": "i", "<i8": "q", "<u8": "Q", "|b1": "B", "|u1": "B", "<f8": "d"}


def count(shape):
    return math.prod(shape)


def npy_bytes(descr, shape, values, version=1, fortran=False):
    dims = "(" + "".join(f"{n}, " for n in shape) + ")"
    header = f"{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {dims}, }}\n".encode()
    length = struct.pack("<H" if version == 1 else "<I", len(header))
    return b"\x93NUMPY" + bytes([version, 0]) + length + header + struct.pack(f"<{len(values)}{CODES[descr]}", *values)


def write_npy(path, descr, shape, values, **options):
    assert len(values) == count(shape)
    path.write_bytes(npy_bytes(descr, shape, values, **options))


def read_npy(path):
    """(descr, shape, values) of a version 1 file."""
    raw = path.read_bytes()
    assert raw[:8] == b"\x93NUMPY\x01\x00", raw[:8]
    (length,) = struct.unpack("<H", raw[8:10])
    assert (10 + length) % 64 == 0, "the header is not padded to 64 bytes"
    header = eval(raw[10 : 10 + length].decode(), {})
    assert header["fortran_order"] is False
    values = struct.unpack(f"<{count(header['shape'])}{CODES[header['descr']]}", raw[10 + length :])
    return header["descr"], header["shape"], values


def safetensors_bytes(tensors):
    """{name: (dtype, shape, raw bytes)}"""
    header, data = {}, b""
    for name, (dtype, shape, raw) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def to_f32(value):
    return struct.unpack("<f", struct.pack("<f", value))[0]


def to_f16(value):
    return struct.unpack("<e", struct.pack("<e", value))[0]


def bf16_bits(value):
    """Nearest, ties to even."""
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    return (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16


def to_bf16(value):
    return struct.unpack("<f", struct.pack("<I", bf16_bits(value) << 16))[0]


ROUND = {"f32": to_f32, "f16": to_f16, "bf16": to_bf16}
