"""
Renders clips: a virtual camera that looks at pictures, with blur, noise, compression and things before the camera.
"""

import functools
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from virtual_camera import (
    Motion,
    displacements,
    ease,
    frame_extent,
    frame_points,
    log_uniform,
    move,
    project,
    random_path,
    random_views,
)


LEVELS = (384, 272, 192, 136)
Texture = list[torch.Tensor]  # a picture at several sizes: uint8 (3, height, width), whose shorter sides are LEVELS
TextureChooser = Callable[[np.random.Generator], Texture]
ASPECTS = (
    9 / 16,
    3 / 4,
    1,
    4 / 3,
    4 / 3,
    16 / 9,
    16 / 9,
    2.35,
)  # width over height of videos; the usual ones are listed twice


@dataclass(frozen=True)
class Conditions:
    """
    How difficult the conditions of a clip are.

    Attributes:
        foreground: probability of objects before the camera, which move by themselves or are nearer or further away.
        damage: probability and strength of blur, noise, flicker and compression; 0 for none, 1 for the usual.
        supersampling: number of pixels that are rendered for each pixel of a frame, along each side.
        faint: probability that the background behind objects has little contrast, like a wall or the sky.
        stirring: probability that parts of the picture move and stretch by themselves, like a person who gestures.
    """

    foreground: float = 0.4
    damage: float = 1.0
    supersampling: int = 2
    faint: float = 0.0
    stirring: float = 0.0


def load_textures(folder: str | Path) -> list[Texture]:
    """
    Return all pictures of a folder as textures.

    Raises:
        ValueError: where the folder has no picture.
    """
    paths = sorted(path for path in Path(folder).glob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not paths:
        raise ValueError(f"{folder} has no .jpg or .png picture; run sources.py, which downloads some")
    return [make_texture(PIL.Image.open(path).convert("RGB")) for path in paths]


def make_texture(picture: PIL.Image.Image) -> Texture:
    """Return a picture at several sizes. A picture more than three times as long as wide is squeezed to that."""
    levels = []
    for side in LEVELS:
        scale = side / min(picture.size)
        size = [max(side, min(round(length * scale), 3 * side)) for length in picture.size]
        levels.append(torch.from_numpy(np.array(picture.resize(size, PIL.Image.Resampling.LANCZOS))).permute(2, 0, 1))
    return levels


def procedural_texture(rng: np.random.Generator) -> Texture:
    """
    Return noise with the spectrum of photographs: plain, in flat regions with sharp edges, or in two kinds of regions.
    """
    side = LEVELS[0]
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.rfftfreq(side), indexing="ij"))
    amplitude = 1 / np.maximum(frequency, 1 / side) ** rng.uniform(0.7, 1.8)
    noise = np.fft.irfft2(amplitude * np.fft.rfft2(rng.normal(size=(3, side, side))), s=(side, side))
    noise = (noise - noise.mean()) / noise.std()
    kind = rng.choice(("plain", "plain", "flat", "regions"))
    if kind == "flat":
        noise = np.round(noise * rng.uniform(0.8, 3)) / 2
    elif kind == "regions":
        noise = np.where(noise[:1] > rng.normal() * 0.5, noise[1:2] * rng.uniform(), 1.5 - noise[2:] * 0.3).repeat(3, 0)
    mixed = np.einsum("ij,jhw->ihw", rng.normal(size=(3, 3)) * 0.4 + 0.6, noise)
    colours = mixed * rng.uniform(20, 60) + rng.uniform(60, 190, size=(3, 1, 1))
    return make_texture(PIL.Image.fromarray(colours.clip(0, 255).astype(np.uint8).transpose(1, 2, 0)))


def any_of(pictures: list[Texture]) -> TextureChooser:
    """Return a function that chooses one of the pictures and doesn't change it."""
    return lambda rng: pictures[rng.integers(len(pictures))]


class TextureMix:
    """
    Chooses textures for training: pictures, which are often mirrored or get their colours exchanged, and procedural
    textures.

    Args:
        pictures: the pictures to choose from.
        rng: random numbers for the procedural textures.
        share: the share of procedural textures.
        renewed: probability that a procedural texture is replaced by a new one when it is chosen.
    """

    def __init__(self, pictures: list[Texture], rng: np.random.Generator, share: float = 0.25, renewed: float = 0.0):
        self.pictures, self.share, self.renewed = pictures, share, renewed
        self.procedural = [procedural_texture(rng) for _ in range(60)]

    def __call__(self, rng: np.random.Generator) -> Texture:
        if rng.uniform() < self.share:
            index = rng.integers(len(self.procedural))
            if rng.uniform() < self.renewed:
                self.procedural[index] = procedural_texture(rng)
            return self.procedural[index]
        texture = self.pictures[rng.integers(len(self.pictures))]
        axes = [axis for axis in (-1, -2) if rng.uniform() < 0.5]
        channels = torch.from_numpy(rng.permutation(3) if rng.uniform() < 0.5 else np.arange(3))
        return [level[channels].flip(axes) for level in texture]


@dataclass(frozen=True)
class Shot:
    """
    What the camera of a clip sees.

    Attributes:
        views: for each frame, the homography from the frame to the picture, (frames, 3, 3).
        aspect: width over height of the scene that a frame shows.
    """

    views: np.ndarray
    aspect: float

    def patch_motion(self, rows: int, columns: int) -> torch.Tensor:
        """
        Return the motion of each patch's content in half widths and half heights, float32 (frames - 1, patches, 2).
        """
        return torch.from_numpy(displacements(self.views, rows, columns, self.aspect).astype(np.float32))


def random_clip(
    rng: np.random.Generator,
    textures: TextureChooser,
    label: str,
    motion: Motion,
    num_frames: int,
    size: tuple[int, int],
    conditions: Conditions = Conditions(),
    aspect: float | None = None,
) -> tuple[torch.Tensor, Shot]:
    """
    Render a clip of a camera motion.

    Args:
        rng: random numbers for all choices.
        textures: chooses the picture and the objects.
        label: the camera motion, one of `LABELS`.
        motion: how large the movements are.
        num_frames: frames of the clip.
        size: height and width of a frame in pixels.
        conditions: what makes the clip difficult.
        aspect: width over height of the scene that a frame shows (default: that of the frame). If it differs from that
            of the frame, the scene is squeezed.

    Returns:
        the clip, uint8 (frames, 3, height, width), and what its camera sees.
    """
    times = np.linspace(0, 1, num_frames)
    views = random_views(rng, random_path(rng, label, times, motion), motion)
    shot = Shot(views, size[1] / size[0] if aspect is None else aspect)
    place, scale = rng.uniform(-0.5, 0.5, size=2), rng.uniform(0.35, 0.75)
    stir = None
    if conditions.stirring and rng.uniform() < conditions.stirring:
        stir = Stir.random(rng, times, shot)
    frames = render(textures(rng), shot, size, place, scale, conditions.supersampling, stir)
    if rng.uniform() < conditions.foreground:
        if conditions.faint and rng.uniform() < conditions.faint:
            frames = faded(rng, frames, 0.0 if label == "static" else 0.3)
        for _ in range(rng.choice((1, 1, 2, 3))):
            frames = add_object(rng, frames, textures(rng), shot)
    return wear(rng, frames, conditions.damage), shot


@dataclass(frozen=True)
class Stir:
    """
    Round parts of the frame that move by themselves and pull their surroundings along, less with more distance.

    Attributes:
        centers: the position of each part at each time, (moments, parts, 2).
        shifts: how far the content of each part has moved at each time, (moments, parts, 2).
        radii: the size of each part, (parts,).
    """

    centers: np.ndarray
    shifts: np.ndarray
    radii: np.ndarray

    @classmethod
    def random(cls, rng: np.random.Generator, times: np.ndarray, shot: Shot) -> "Stir":
        """Return one to three random parts."""
        parts = rng.integers(1, 4)
        radii = rng.uniform(0.12, 0.45, size=parts)
        centers = np.stack([object_path(rng, times, shot) for _ in range(parts)], axis=1)
        phases = rng.uniform(0, 2 * np.pi, size=(parts, 2)) + times[:, None, None] * rng.uniform(0, 9, size=(parts, 2))
        sizes = radii * rng.uniform(0.2, 0.9, size=parts)
        return cls(centers, np.sin(phases) * sizes[:, None], radii)

    def __call__(self, rays: torch.Tensor) -> torch.Tensor:
        """Return where the content of pixels (3, pixels) comes from at each time, (moments, 3, pixels)."""
        points = rays[:2].T.numpy()
        away = (points - self.centers[:, :, None]) / self.radii[:, None, None]
        weights = np.exp(-(away**2).sum(axis=-1))  # (moments, parts, pixels)
        moved = points - np.einsum("tkp,tkc->tpc", weights, self.shifts)
        moved = torch.from_numpy(moved.astype(np.float32)).transpose(1, 2)
        return torch.cat((moved, torch.ones_like(moved[:, :1])), dim=1)


def render(
    texture: Texture,
    shot: Shot,
    size: tuple[int, int],
    place: np.ndarray,
    scale: float,
    supersampling: int = 1,
    stir: Stir | None = None,
) -> torch.Tensor:
    """
    Render what a camera sees of a picture. Return float32 (frames, 3, height, width), from 0 to 255.

    Args:
        texture: the picture.
        shot: what the camera sees.
        size: height and width of a frame in pixels.
        place: the point of the picture, in [-1, 1], at the origin of the plane.
        scale: half a frame's shorter side as a share of half the picture's shorter side.
        supersampling: number of pixels that are rendered for each pixel of a frame, along each side.
        stir: parts that move by themselves.
    """
    height, width = (side * supersampling for side in size)
    wanted = min(height, width) / scale  # so that a rendered pixel is about one pixel of the picture
    level = min(texture, key=lambda level: abs(np.log(min(level.shape[1:]) / wanted)))
    shorter = min(level.shape[1:])
    to_picture = scale * shorter / np.array([level.shape[2], level.shape[1]])
    rays = pixel_rays(height, width, shot.aspect)
    grid = picture_points(shot.views, rays if stir is None else stir(rays), to_picture, place)
    grid = grid.unflatten(1, (height, width))
    picture = level[None].float().expand(len(shot.views), -1, -1, -1)
    frames = F.grid_sample(picture, grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    return F.avg_pool2d(frames, supersampling) if supersampling > 1 else frames


def picture_points(views: np.ndarray, rays: torch.Tensor, scale: np.ndarray, place: np.ndarray) -> torch.Tensor:
    """
    Return the position in the picture of each pixel of each frame, (frames, pixels, 2), in the units of `grid_sample`.
    """
    rays = torch.from_numpy(views.astype(np.float32)) @ rays
    depth = rays[:, 2].clamp(min=0.05)  # as in virtual_camera.project
    axes = [rays[:, axis] / depth * float(scale[axis]) + float(place[axis]) for axis in range(2)]
    return torch.stack(axes, dim=-1)


@functools.cache
def pixel_rays(height: int, width: int, aspect: float) -> torch.Tensor:
    """Return the centres of a frame's pixels in homogeneous coordinates, (3, height * width)."""
    points = torch.from_numpy(frame_points(height, width, aspect).astype(np.float32)).T
    return torch.cat((points, torch.ones(1, height * width)))


def faded(rng: np.random.Generator, frames: torch.Tensor, least: float) -> torch.Tensor:
    """
    Reduce the contrast of frames to a random share from `least` to 0.6, around another grey. With a `least` of 0 the
    picture can disappear, which is only right for a static camera.
    """
    grey = float(rng.uniform(0, 255))
    return grey + float(rng.uniform(least, 0.6)) * (frames - frames.mean())


def add_object(rng: np.random.Generator, frames: torch.Tensor, texture: Texture, shot: Shot) -> torch.Tensor:
    """
    Draw an object before the camera, up to half as large as the frame: another picture in the shape of a few ellipses.

    The object moves, grows and changes its shape by itself, or it is a fixed part of the scene that is nearer or
    further away than the rest.
    """
    moments, _, height, width = frames.shape
    times = np.linspace(0, 1, moments)
    centers = object_path(rng, times, shot)
    growth = np.exp(times * rng.uniform(-0.6, 0.6)) if rng.uniform() < 0.5 else np.ones(moments)
    radius = log_uniform(rng, (0.15, 1.1))
    parts = rng.integers(1, 4)
    radii = radius * rng.uniform(0.6, 1, size=(parts, 2))
    phases = rng.uniform(0, 2 * np.pi, size=(parts, 2)) + times[:, None, None] * rng.uniform(0, 9, size=(parts, 2))
    offsets = radius * (rng.uniform(-0.8, 0.8, size=(parts, 2)) + rng.uniform(0, 0.4) * np.sin(phases))
    outline = centers[:, None] + growth[:, None, None] * offsets  # (moments, parts, 2)
    points = frame_points(height, width, shot.aspect)
    away = (points - outline[:, :, None]) / (growth[:, None, None] * radii)[:, :, None]
    distance = np.sqrt((away**2).sum(axis=-1)).min(axis=1)
    alpha = ((1 - distance) * rng.uniform(3, 15)).clip(0, 1).astype(np.float32).reshape(-1, 1, height, width)
    views = np.array(
        [np.diag([1 / size, 1 / size, 1]) @ move(*-center) for center, size in zip(centers, growth, strict=True)]
    )
    place, scale = rng.uniform(-0.5, 0.5, size=2), rng.uniform(0.3, 0.7)
    other = render(texture, Shot(views, shot.aspect), (height, width), place, scale)
    return torch.lerp(frames, other, torch.from_numpy(alpha))


def object_path(rng: np.random.Generator, times: np.ndarray, shot: Shot) -> np.ndarray:
    """Return the centre of an object at each time, (moments, 2)."""
    extent = frame_extent(shot.aspect)
    start = rng.uniform(-1, 1, size=2) * extent
    if rng.uniform() < 0.6:  # it moves by itself, sometimes across the frame
        end = rng.uniform(-1.4, 1.4, size=2) * extent
        return start + (end - start) * ease(rng, times)[:, None] * rng.uniform()
    middle = shot.views[len(times) // 2]
    moved = project(np.linalg.inv(shot.views) @ middle, start[None])[:, 0] - start
    return start + rng.uniform(0.8, 1.8) * moved


def wear(rng: np.random.Generator, frames: torch.Tensor, damage: float) -> torch.Tensor:
    """Change exposure and colour, and add blur, noise and compression: float 0 to 255 -> uint8 of the same shape."""
    if rng.uniform() < 0.5:
        frames = 255 * (frames.clamp(0, 255) / 255) ** float(np.exp(rng.normal() * 0.3))
    moments = len(frames)
    gain = 1 + rng.normal() * 0.15 + np.linspace(-1, 1, moments) * rng.normal() * 0.12 * damage
    if rng.uniform() < 0.2 * damage:
        gain = gain + rng.normal(size=moments) * 0.04
    gain = (gain[:, None] * (1 + rng.normal(size=3) * 0.06)).astype(np.float32)
    frames = frames * torch.from_numpy(gain)[:, :, None, None] + rng.normal() * 8
    if rng.uniform() < 0.1:
        frames = frames.mean(dim=1, keepdim=True).expand(-1, 3, -1, -1)
    if rng.uniform() < 0.3 * damage:
        frames = F.avg_pool2d(F.pad(frames, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    if rng.uniform() < 0.6 * damage:
        noise = torch.from_numpy(rng.standard_normal(frames.shape, dtype=np.float32))
        frames = frames + noise * float(rng.exponential(4) * damage)
    frames = frames.clamp(0, 255).round().to(torch.uint8)
    if rng.uniform() < 0.3 * damage:
        quality = int(rng.integers(15, 70))
        frames = torch.stack([compressed(frame, quality) for frame in frames])
    return frames


def compressed(frame: torch.Tensor, quality: int) -> torch.Tensor:
    """Return a frame (3, height, width) after JPEG compression."""
    file = io.BytesIO()
    PIL.Image.fromarray(frame.permute(1, 2, 0).numpy()).save(file, "jpeg", quality=quality)
    return torch.from_numpy(np.array(PIL.Image.open(file))).permute(2, 0, 1)
