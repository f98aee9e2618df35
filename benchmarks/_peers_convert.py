"""A GGUF file that OpenVINO GenAI can read: it knows few of ggml's types."""

from __future__ import annotations

from pathlib import Path

from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
from gguf.quants import dequantize, quantize

KNOWN = {
    GGMLQuantizationType[name] for name in ("F32", "F16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K")
}
"""Types that are copied; all others become Q8_0, the nearest that OpenVINO reads."""


def readable(source: Path, folder: Path) -> Path:
    """The file itself where OpenVINO reads all of its types, else a copy in which it does.

    Args:
        source: a GGUF file.
        folder: of copies; one that is there already is not made again.

    Returns:
        The path of the file. A copy is alone in its folder, since OpenVINO keeps what it makes of a
        file beside it.
    """
    reader = GGUFReader(source)
    if all(tensor.tensor_type in KNOWN for tensor in reader.tensors):
        return source
    copy = folder / source.stem / source.name
    if copy.exists():
        return copy
    copy.parent.mkdir(parents=True, exist_ok=True)
    new = copy.with_suffix(".new")
    writer = GGUFWriter(new, reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if field.name == "general.architecture" or field.name.startswith("GGUF."):
            continue  # the writer's own
        kind = field.types[0]
        inner = field.types[-1] if kind == GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), kind, sub_type=inner)
    for tensor in reader.tensors:
        data, kind = tensor.data, tensor.tensor_type
        if kind not in KNOWN:
            data = quantize(dequantize(data, kind), GGMLQuantizationType.Q8_0)
            kind = GGMLQuantizationType.Q8_0
        writer.add_tensor(tensor.name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    new.replace(copy)
    return copy
