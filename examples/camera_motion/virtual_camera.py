"""
The geometry of a virtual camera that moves over a picture. It gives labelled clips of every camera motion.

- The picture is a plane, mirrored endlessly.
- A point of the frame has x to the right and y down. The centre is 0, and 1 is half the frame's shorter side.
- A view is a homography from the frame to the plane. It consists of zoom and roll within the frame, a turn of the
  camera (perspective), and a shift along the plane.
- Labels name the movement of the camera. In `pan_right` the content of the picture moves left, in `roll_clockwise` it
  turns counter-clockwise.

This file needs only numpy and has no pixels.
"""

from dataclasses import dataclass, fields

import numpy as np


LABELS = (
    "static",
    "pan_left",
    "pan_right",
    "tilt_up",
    "tilt_down",
    "zoom_in",
    "zoom_out",
    "roll_clockwise",
    "roll_counterclockwise",
    "shake",
)

AXES = ("x", "y", "zoom", "roll")
DIRECTIONS = {  # label -> axis of the movement, and its sign
    "pan_left": ("x", -1),
    "pan_right": ("x", 1),
    "tilt_up": ("y", -1),
    "tilt_down": ("y", 1),
    "zoom_in": ("zoom", 1),
    "zoom_out": ("zoom", -1),
    "roll_clockwise": ("roll", 1),
    "roll_counterclockwise": ("roll", -1),
}


@dataclass(frozen=True)
class Motion:
    """
    The ranges of movements from the first frame to the last.

    Attributes:
        shift: how far pans and tilts go, in half frames.
        zoom: the logarithm of the scale of zooms.
        roll: the angle of rolls, in radians.
        shake: standard deviation of the camera's position in a shake, in half frames.
        tremble: the same in all other clips, from a tripod to a calm hand.
        drift: movement along the other axes than the label's, as a share of an equally fast movement there.
        perspective: the slant of the plane, in radians.
    """

    shift: tuple[float, float] = (0.12, 1.2)
    zoom: tuple[float, float] = (0.08, 0.7)
    roll: tuple[float, float] = (0.07, 0.9)
    shake: tuple[float, float] = (0.035, 0.15)
    tremble: tuple[float, float] = (0.0005, 0.012)
    drift: tuple[float, float] = (0.0, 0.12)
    perspective: tuple[float, float] = (0.0, 0.2)

    def range_of(self, axis: str) -> tuple[float, float]:
        """Return the range of movements along one of `AXES`."""
        return {"x": self.shift, "y": self.shift, "zoom": self.zoom, "roll": self.roll}[axis]


EASY = Motion(
    shift=(0.5, 1.4),
    zoom=(0.3, 0.8),
    roll=(0.3, 1.0),
    shake=(0.06, 0.15),
    tremble=(1e-5, 1e-4),
    drift=(0.0, 0.0),
    perspective=(0.0, 0.0),
)
FULL = Motion()


def between(easy: Motion, full: Motion, share: float) -> Motion:
    """Return motions for a curriculum: `easy` at a share of 0, `full` at 1, and linear between."""
    ranges = {}
    for field in fields(Motion):
        pairs = zip(getattr(easy, field.name), getattr(full, field.name), strict=True)
        ranges[field.name] = tuple((1 - share) * a + share * b for a, b in pairs)
    return Motion(**ranges)


def log_uniform(rng: np.random.Generator, bounds: tuple[float, float]) -> float:
    """Return a random number whose logarithm is uniform between those of the bounds."""
    return float(np.exp(rng.uniform(*np.log(bounds))))


def ease(rng: np.random.Generator, times: np.ndarray) -> np.ndarray:
    """Return the progress of a movement at each time in [0, 1]: even, or with a soft start, a soft end, or both."""
    return (times, times**1.6, 1 - (1 - times) ** 1.6, times * times * (3 - 2 * times))[rng.integers(4)]


def random_path(rng: np.random.Generator, label: str, times: np.ndarray, motion: Motion) -> np.ndarray:
    """Return x, y, the logarithm of the zoom, and the roll at each of `times` in [0, 1], as (moments, 4)."""
    deviation = log_uniform(rng, motion.shake if label == "shake" else motion.tremble)
    path = unsteady_hand(rng, len(times)) * deviation
    if label not in DIRECTIONS:
        return path
    axis, sign = DIRECTIONS[label]
    size = log_uniform(rng, motion.range_of(axis))
    speed = size / motion.range_of(axis)[1]
    progress = ease(rng, times) - 0.5
    for column, other in enumerate(AXES):
        if other == axis:
            path[:, column] += sign * size * progress
        else:
            share = rng.uniform(*motion.drift) * rng.choice((-1, 1))
            path[:, column] += share * speed * motion.range_of(other)[1] * (times - 0.5)
    return path


def unsteady_hand(rng: np.random.Generator, moments: int) -> np.ndarray:
    """Return noise without a trend (moments, 4), with a deviation of about 1 in x and y, and less in zoom and roll."""
    times = np.linspace(-1, 1, moments)
    slowness = rng.uniform(0.01, 0.25)
    smooth = np.exp(-(((times[:, None] - times) / slowness) ** 2))
    noise = smooth @ rng.normal(size=(moments, 4))
    trend = np.stack([np.ones(moments), times], axis=1)
    noise = noise - trend @ np.linalg.pinv(trend) @ noise
    noise = noise / (noise[:, :2].std() + 1e-9)
    return noise * np.array([rng.uniform(0.4, 1), rng.uniform(0.4, 1), 0.1, 0.3])


def random_views(rng: np.random.Generator, path: np.ndarray, motion: Motion) -> np.ndarray:
    """Return the homographies (moments, 3, 3) of a path. Half of the cameras turn to pan and tilt, the others move."""
    focal_length = log_uniform(rng, (1.2, 4))
    lens = np.diag([1, 1, focal_length])  # from points of the frame to rays
    unlens = np.linalg.inv(lens)
    slant = rng.uniform(*motion.perspective, size=2) * rng.choice((-1, 1), size=2)
    plane = unlens @ turn(*slant) @ lens
    turns = rng.uniform() < 0.5
    views = []
    for x, y, zoom, angle in path:
        view = roll(angle) @ np.diag([np.exp(-zoom), np.exp(-zoom), 1])
        if turns:
            view = unlens @ turn(np.arctan(x / focal_length), np.arctan(y / focal_length)) @ lens @ view
            views.append(plane @ view)
        else:
            views.append(move(x, y) @ plane @ view)
    return np.array(views)


def roll(angle: float) -> np.ndarray:
    """Return the matrix of a roll, clockwise for a viewer who looks through the camera. The angle is in radians."""
    return np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])


def turn(yaw: float, pitch: float) -> np.ndarray:
    """Return the matrix that turns rays to the right by `yaw` and down by `pitch`, in radians."""
    to_the_right = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    down = np.array([[1, 0, 0], [0, np.cos(pitch), np.sin(pitch)], [0, -np.sin(pitch), np.cos(pitch)]])
    return to_the_right @ down


def move(x: float, y: float) -> np.ndarray:
    """Return the matrix of a shift."""
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1.0]])


def project(views: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Apply homographies (..., 3, 3) to points (points, 2). Return (..., points, 2)."""
    rays = np.concatenate([points, np.ones((len(points), 1))], axis=1) @ np.swapaxes(views, -1, -2)
    return rays[..., :2] / np.maximum(rays[..., 2:], 0.05)  # points behind the camera become points far away


def frame_extent(aspect: float) -> np.ndarray:
    """
    Return half the width and half the height of the scene in a frame, with 1 for the shorter. `aspect` is their ratio.
    """
    return np.array([aspect, 1.0]) / min(aspect, 1.0)


def frame_points(height: int, width: int, aspect: float | None = None) -> np.ndarray:
    """
    Return the centres of height x width equal parts of a frame, row by row: (height * width, 2).

    Args:
        height: number of rows.
        width: number of columns.
        aspect: width over height of the scene that the frame shows (default: width / height). If it differs from that
            of the frame, the scene is squeezed.
    """
    x = (np.arange(width) + 0.5) / width * 2 - 1
    y = (np.arange(height) + 0.5) / height * 2 - 1
    points = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    return points * frame_extent(width / height if aspect is None else aspect)


def displacements(views: np.ndarray, rows: int, columns: int, aspect: float) -> np.ndarray:
    """
    Return how far the content at the centre of each of rows x columns parts of a frame moves to the next frame.

    Args:
        views: homographies (moments, 3, 3).
        rows: number of rows.
        columns: number of columns.
        aspect: width over height of the scene that a frame shows.

    Returns:
        (moments - 1, rows * columns, 2), in half widths and half heights of the frame.
    """
    centers = frame_points(rows, columns, aspect)
    return (project(np.linalg.inv(views[1:]) @ views[:-1], centers) - centers) / frame_extent(aspect)
