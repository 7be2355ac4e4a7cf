"""Check that a quantised graph is valid ONNX."""

from typing import TYPE_CHECKING

from lrdan_edge.errors import CalibrationError

if TYPE_CHECKING:
    import onnx


def checked(model: "onnx.ModelProto") -> "onnx.ModelProto":
    """Check the graph against the ONNX specification and return it.

    Raises:
        CalibrationError: The graph is not valid.
    """
    import onnx

    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise CalibrationError(f"the quantised graph is not valid ONNX: {error}") from error
    return model
