"""Files of named tensors: safetensors, plain or in one zstd frame."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, cast

import safetensors.torch
import torch
from safetensors import SafetensorError

from prunus.masks import Tensors
from prunus.storage import write_with

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

CODES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
DTYPES = {code: dtype for dtype, code in CODES.items()}
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


def write_tensors(path: Path, tensors: Tensors, metadata: Mapping[str, str], compress: bool) -> None:
    """Write contiguous ``tensors`` on the CPU to ``path`` at once or not at all; equal input gives equal bytes.

    Streamed, since the library's own writer holds two more copies and orders metadata by chance.
    """
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))  # each aligned to its size
    header: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    end = 0
    for name, tensor in ordered:
        begin, end = end, end + tensor.nbytes
        header[name] = {"dtype": code(tensor.dtype), "shape": list(tensor.shape), "data_offsets": [begin, end]}
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)

    def write(file: BinaryIO) -> None:
        file.write(len(head).to_bytes(8, "little") + head)
        for _, tensor in ordered:
            file.write(tensor.view(-1).view(torch.uint8).numpy().data)

    def write_compressed(file: BinaryIO) -> None:
        options = {int(zstd.CompressionParameter.checksum_flag): 1}
        with zstd.ZstdFile(file, "w", options=options) as compressed:
            write(cast(BinaryIO, compressed))

    write_with(path, write_compressed if compress else write)


def read_tensors(path: Path) -> tuple[Tensors, dict[str, str]]:
    """The tensors and the metadata. Raises ValueError for a file that is cut off or of another kind."""
    try:
        content = path.read_bytes()
        if content.startswith(ZSTD_MAGIC):
            content = zstd.decompress(content)
        tensors = safetensors.torch.load(content)
    except (SafetensorError, zstd.ZstdError) as error:
        raise ValueError(
            f"{path} must be a whole safetensors file, packed, dense or in zstd, got {len(content)} bytes that are not "
            f"({error}); export or copy it again"
        ) from None
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return tensors, header.get("__metadata__", {})


def code(dtype: torch.dtype) -> str:
    """The name of ``dtype`` in safetensors. Raises ValueError where it has none."""
    if dtype not in CODES:
        raise ValueError(f"tensors must be of {', '.join(map(str, CODES))} for safetensors, got {dtype}; convert it")
    return CODES[dtype]
