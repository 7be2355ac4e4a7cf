"""Tiling in the deploy graph: frames to the networks' images (crop, resize, tile), and the tiles' maps to one heatmap (untile).

The code uses only slices, matrix products and sums, which every backend supports and TensorRT runs on tensor cores. ONNX's Resize
with antialiasing cannot be used: TensorRT's parser refuses the attribute, and its filter differs from the one in training.
"""

from math import gcd

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lrdan_edge.bundle.spec import ModelSpec
from lrdan_edge.bundle.view import Geometry, blend_zones
from lrdan_edge.model.precision import Float32Module

Matrix = npt.NDArray[np.float32]


class AreaResize(Float32Module):
    """Resizes images as `lrdan_edge.data.images.fit_frame` does (OpenCV's area average, rounded to grey levels).

    Area averaging is linear in rows and in columns, so it is two products with constant matrices. If a side shrinks from p to q
    pixels (in lowest terms), each block of p pixels is independent, so a q by p matrix is applied to each block.
    """

    columns: Tensor
    rows: Tensor

    def __init__(self, source: tuple[int, int], target: tuple[int, int]) -> None:
        """Make the matrices.

        Args:
            source: (rows, columns) before.
            target: (rows, columns) after.
        """
        super().__init__()
        self.target = target
        self.halves = source == (2 * target[0], 2 * target[1])
        shrinks = target[0] <= source[0] and target[1] <= source[1]
        matrices = [area_matrix(before, after, shrinks=shrinks) for before, after in zip(source, target, strict=True)]
        if shrinks:
            matrices = [_first_block(matrix) for matrix in matrices]
        self.register_buffer("rows", torch.from_numpy(matrices[0]))
        self.register_buffer("columns", torch.from_numpy(matrices[1].T.copy()))

    def forward(self, x: Tensor) -> Tensor:
        """Resize float32 [N, C, H, W] in [0, 255]; the results are whole numbers."""
        channels, height = int(x.shape[1]), int(x.shape[2])
        if self.columns.numel() > 1:
            x = (x.reshape(-1, self.columns.shape[0]) @ self.columns).reshape(-1, channels, height, self.target[1])
        if self.rows.numel() > 1:
            x = (self.rows @ x.reshape(-1, self.rows.shape[1], self.target[1])).reshape(-1, channels, *self.target)
        # OpenCV rounds x.5 to the even grey level, except when it halves an image: there it uses integers and rounds up.
        return (x + 0.5).floor() if self.halves else x.round()


def area_matrix(before: int, after: int, *, shrinks: bool) -> Matrix:
    """The matrix of OpenCV's area interpolation along one side.

    Args:
        before: Pixels before.
        after: Pixels after.
        shrinks: Whether neither side of the image grows. OpenCV then averages areas; otherwise it interpolates.

    Returns:
        float32 [after, before], rows summing to 1.
    """
    if before == after:
        return np.eye(before, dtype=np.float32)
    if shrinks:
        unit = cv2.resize(np.eye(before, dtype=np.float32), (before, after), interpolation=cv2.INTER_AREA)
        return np.asarray(unit, np.float32)
    # Doubling the columns makes OpenCV interpolate rows as for a growing image; every second column is unchanged.
    unit = cv2.resize(np.eye(before, dtype=np.float32), (2 * before, after), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(unit[:, ::2], np.float32)


def _first_block(matrix: Matrix) -> Matrix:
    """The smallest block that gives the matrix when repeated along the diagonal."""
    after, before = matrix.shape
    blocks = gcd(before, after)
    return np.ascontiguousarray(matrix[: after // blocks, : before // blocks])


class Tile(nn.Module):
    """Makes the networks' images from frames: crops the region, resizes it to the canvas, and cuts the canvas into tiles."""

    def __init__(self, spec: ModelSpec, geometry: Geometry) -> None:
        """Set up the slices.

        Args:
            spec: The networks' specification.
            geometry: The geometry in `spec` (`ModelSpec.geometry`), which is not None.
        """
        super().__init__()
        self.region = geometry.region
        _, _, width, height = self.region
        self.crops = (height, width) != geometry.frame
        self.resize = None if spec.heatmap_shape == (height, width) else AreaResize((height, width), spec.heatmap_shape)
        self.tile_rows, self.tile_columns = spec.tile_rows, spec.tile_columns
        self.height, self.width = spec.height, spec.width

    def forward(self, frames: Tensor) -> Tensor:
        """Make the tiles.

        Args:
            frames: float32 [N, C, H, W] in [0, 255].

        Returns:
            float32 [N·T, C, h, w], each frame's tiles together, row by row.
        """
        left, top, width, height = self.region
        x = frames[:, :, top : top + height, left : left + width] if self.crops else frames
        if self.resize is not None:
            x = self.resize(x)
        rows, columns = len(self.tile_rows), len(self.tile_columns)
        if rows * columns == 1:
            return x
        x = torch.cat([x[:, :, start : start + self.height] for start in self.tile_rows], 2)
        x = torch.cat([x[:, :, :, start : start + self.width] for start in self.tile_columns], 3)
        x = x.reshape(-1, int(frames.shape[1]), rows, self.height, columns, self.width)
        return x.permute(0, 2, 4, 1, 3, 5).reshape(-1, int(frames.shape[1]), self.height, self.width)


class Untile(Float32Module):
    """Blends the tiles' maps into one map of the canvas; in overlaps, linear weights avoid a seam."""

    row_weights: Tensor
    column_weights: Tensor

    def __init__(self, spec: ModelSpec) -> None:
        """Make the weights.

        Args:
            spec: The networks and their tiles.
        """
        super().__init__()
        self.starts, self.tile = (spec.tile_rows, spec.tile_columns), (spec.height, spec.width)
        rows, columns = (blend_weights(starts, tile) for starts, tile in zip(self.starts, self.tile, strict=True))
        self.register_buffer("row_weights", torch.from_numpy(rows)[None, :, :, None, None])
        self.register_buffer("column_weights", torch.from_numpy(columns)[None, None, None])

    def forward(self, maps: Tensor) -> Tensor:
        """Blend float32 [N·T, 1, h, w], in the order of `Tile`, to float32 [N, 1, H, W]."""
        (rows, columns), (height, width) = (len(starts) for starts in self.starts), self.tile
        if rows * columns == 1:
            return maps
        x = maps.reshape(-1, rows, columns, height, width).transpose(2, 3)
        x = (x * self.row_weights * self.column_weights).reshape(-1, rows * height, columns * width)
        x = _overlap_add(_overlap_add(x, self.starts[0], height, 1), self.starts[1], width, 2)
        return x.unsqueeze(1)


def blend_weights(starts: list[int], tile: int) -> Matrix:
    """Each tile's weights along one side: they rise and fall linearly over `blend_zones`, and sum to 1 everywhere.

    Args:
        starts: Where each tile begins on the canvas.
        tile: Length of a tile along this side, in pixels.

    Returns:
        float32 [len(starts), tile].
    """
    weights = np.ones((len(starts), tile), np.float64)
    for index, (begin, end) in enumerate(blend_zones(starts, tile)):
        places = np.arange(starts[index], starts[index + 1] + tile) + 0.5
        rise = np.clip((places - begin) / (end - begin), 0, 1) if end > begin else places > begin
        weights[index] *= 1 - rise[:tile]
        weights[index + 1] *= rise[-tile:]
    return weights.astype(np.float32)


def _overlap_add(x: Tensor, starts: list[int], tile: int, axis: int) -> Tensor:
    """Move weighted tiles, placed side by side along `axis`, to their positions, and add them where they overlap."""
    parts, place = [], 0
    ends = [*blend_zones(starts, tile), (starts[-1] + tile, starts[-1] + tile)]
    for index, (begin, end) in enumerate(ends):
        here = index * tile - starts[index]
        if begin > place:
            parts.append(x.narrow(axis, here + place, begin - place))
        if end > begin:
            there = (index + 1) * tile - starts[index + 1]
            parts.append(x.narrow(axis, here + begin, end - begin) + x.narrow(axis, there + begin, end - begin))
        place = end
    return torch.cat(parts, axis)
