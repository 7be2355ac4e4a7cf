"""Refuses graphs that would make a runtime read files outside the bundle.

An ONNX tensor may name another file that holds its values (external data). ONNX Runtime and OpenVINO open that file, by an absolute path
too, and so a stranger's graph could show any file of the user. The other formats that the runtimes recognise by their first bytes
(ONNX Runtime's own, OpenVINO's XML) and nodes with a compiled graph (``EPContext``) can name files as well. Graphs that this toolkit
writes contain none of these.
"""

from pathlib import Path

from lrdan_edge.errors import BundleError

_FIRST_BYTE = b"\x08"  # the field `ir_version`, which ONNX writers put first
_OUTSIDE = (b"location", b"EPContext")
"""Protobuf stores strings as they are: the key ``location`` of external data, and the operator of compiled graphs."""


def require_self_contained(graph: bytes, path: Path) -> None:
    """Check a graph before a runtime loads it.

    Args:
        graph: The bytes of an ONNX file.
        path: Where they are from, for the message.

    Raises:
        BundleError: It is not ONNX, or it names another file. Any occurrence of the words counts, so that no encoding hides one.
    """
    if not graph.startswith(_FIRST_BYTE):
        raise BundleError(f"{path} is not an ONNX graph", "use a bundle from a source you trust")
    for word in _OUTSIDE:
        if word in graph:
            raise BundleError(
                f"{path} is not self-contained: it contains {word.decode()!r}, so it could read other files of this machine",
                "use a bundle from a source you trust",
            )
