"""Drawing of panoptic maps and instances over pictures.

Small pictures are enlarged by a whole factor before anything is drawn (photographs smoothly, maps by repeating pixels),
so that edges stay thin and names readable; ``enlarge_to`` says how long the longer side has to be, 0 turns it off.
Everything is done by tables over the segments, so the time depends on the pixels and hardly on the number of segments.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Float32, Int, Integer, Shaped, UInt8
from PIL import Image, ImageDraw

from thingstuff.errors import InputError
from thingstuff.labels import Category, LabelSet
from thingstuff.structures import VOID_ID, Panoptic, Segment
from thingstuff.viz_names import Tags, font_of, font_size, letters_of, shorten, write_names

ENLARGE_TO = 480
"""Length in pixels that the longer side of a drawing has at least."""

_Color = tuple[int, int, int]
_VOID_COLOR = (24, 26, 32)
_VOID_OPACITY = 0.35
_TINT = 0.28
"""Share of the tint in the colour of an instance: enough to tell neighbours apart, too little to hide the class."""
_TINTS = np.array([[255 * (k & 1), 255 * (k >> 1 & 1), 255 * (k >> 2 & 1)] for k in range(8)], dtype=np.float32)
_VARIANTS = 6
"""Colours that the instances of a class take."""


_STRETCHED = (1.0, 99.0)
"""Percentiles of a channel that become black and white."""


# --- public ---


def as_photo(image: Shaped[np.ndarray, "H W C"]) -> UInt8[np.ndarray, "H W 3"]:
    """A picture for people: 8-bit RGB as it is; of others three channels, or one as grey, from dark to bright.

    Args:
        image: uint8 or uint16.
    """
    if image.shape[2] == 3 and image.dtype == np.uint8:
        return image
    shown = image[:, :, :3] if image.shape[2] >= 3 else image[:, :, :1]
    low, high = np.percentile(shown, _STRETCHED, axis=(0, 1))
    grey = (shown - low) * (255 / np.maximum(high - low, 1))
    return np.broadcast_to(np.rint(grey.clip(0, 255)).astype(np.uint8), (*image.shape[:2], 3)).copy()


def draw_panoptic(
    image: UInt8[np.ndarray, "H W 3"],
    panoptic: Panoptic,
    labels: LabelSet,
    *,
    names: bool = True,
    opacity: float = 0.5,
    enlarge_to: int = ENLARGE_TO,
) -> Image.Image:
    """Draw a panoptic map over its picture.

    Stuff has the colour of its class and dark edges; each thing a variation of it, unlike that of things of its class
    nearby, and light edges. Void shows the picture, dimmed.

    Args:
        image: RGB.
        panoptic: The map, of the same size as the picture.
        labels: Names and colours.
        names: Write class (and score, where there is one) on every segment large enough; tags never overlap.
        opacity: Share of the colour over the picture, from 0 to 1.
        enlarge_to: The longer side is brought to at least this many pixels.

    Raises:
        InputError: Sizes differ, or the map has an id or a category that its table or ``labels`` lacks.
    """
    if image.shape[:2] != panoptic.ids.shape:
        raise InputError(
            f"panoptic map is {_size_text(panoptic.ids)}, its picture {_size_text(image)}; resize one of them"
        )
    segments, index = _compact(panoptic)
    colors = _segment_colors(segments, index, labels)
    factor = _enlargement(index.shape, enlarge_to)
    index, photo = _repeat(index, factor), _enlarge_photo(image, factor)

    opacities = np.full((len(colors), 1), opacity, np.float32)
    opacities[0] = _VOID_OPACITY
    # All per segment, looked up per pixel: photo * (1 - opacity) + color * opacity.
    drawing = photo * (1 - opacities)[index] + (colors * opacities)[index]
    edge = _edges(index) & (index > 0)
    drawing[edge] = _edge_colors(colors, segments)[index[edge]]
    picture = Image.fromarray(np.rint(drawing).astype(np.uint8))
    if names:
        write_names(picture, index, segments, [category.name for category in labels.categories])
    return picture


def draw_ids(panoptic: Panoptic, labels: LabelSet, *, enlarge_to: int = ENLARGE_TO) -> Image.Image:
    """Draw a panoptic map alone, in the colours of ``draw_panoptic`` and with void dark.

    Args:
        panoptic: The map.
        labels: Names and colours.
        enlarge_to: The longer side is brought to at least this many pixels.

    Raises:
        InputError: The map has an id or a category that its table or ``labels`` lacks.
    """
    segments, index = _compact(panoptic)
    colors = _segment_colors(segments, index, labels)
    index = _repeat(index, _enlargement(index.shape, enlarge_to))
    drawing = np.rint(colors).astype(np.uint8)[index]
    edge = _edges(index) & (index > 0)
    drawing[edge] = np.rint(_edge_colors(colors, segments)).astype(np.uint8)[index[edge]]
    return Image.fromarray(drawing)


def draw_instances(
    image: UInt8[np.ndarray, "H W 3"],
    boxes: Float[np.ndarray, "n 4"],
    scores: Float[np.ndarray, " n"],
    category_ids: Integer[np.ndarray, " n"],
    masks: Bool[np.ndarray, "n H W"] | None,
    labels: LabelSet,
    *,
    names: bool = True,
    opacity: float = 0.5,
    enlarge_to: int = ENLARGE_TO,
) -> Image.Image:
    """Draw detected objects over their picture, the surest on top.

    Args:
        image: RGB.
        boxes: xyxy in pixels of ``image``.
        scores: Confidence, from 0 to 1.
        category_ids: The data set's own ids.
        masks: May overlap; None draws boxes alone.
        labels: Names and colours.
        names: Write class and score at every box where there is room; tags never overlap.
        opacity: Share of the colour over the picture inside masks, from 0 to 1.
        enlarge_to: The longer side is brought to at least this many pixels.

    Raises:
        InputError: A category is not in ``labels``.
    """
    factor = _enlargement(image.shape[:2], enlarge_to)
    drawing = _enlarge_photo(image, factor)
    categories = [_category(labels, int(identity)) for identity in category_ids]
    colors = [_variant(category.color, rank) for rank, category in enumerate(categories)]
    order = [int(row) for row in np.argsort(-scores, kind="stable")]
    for row in reversed(order) if masks is not None else ():
        _paint_mask(drawing, masks[row], factor, colors[row], opacity)  # pyright: ignore[reportOptionalSubscript]
    picture = Image.fromarray(np.rint(drawing).astype(np.uint8))
    tags = Tags(picture, [category.name for category in labels.categories])
    corners = np.stack([np.floor(boxes[:, :2] * factor), np.ceil(boxes[:, 2:] * factor) - 1], axis=1).astype(int)
    for row in reversed(order):
        (left, top), (right, bottom) = corners[row].tolist()
        outline, width = _mix(colors[row], 255, 0.35), 2 if masks is None else 1
        tags.pen.rectangle((left, top, max(left, right), max(top, bottom)), outline=outline, width=width)
    for row in order if names else ():
        tags.write_at_box(f"{categories[row].name} {scores[row]:.0%}", corners[row])
    return picture


def side_by_side(pictures: Sequence[Image.Image], titles: Sequence[str]) -> Image.Image:
    """Set pictures in one row, brought to the height of the tallest, each under its title.

    Args:
        pictures: RGB, at least one.
        titles: One for each picture; one too long for its picture is cut with an ellipsis.

    Raises:
        InputError: No picture, or another number of titles than of pictures.
    """
    if not pictures or len(pictures) != len(titles):
        raise InputError(
            f"side_by_side: {len(pictures)} pictures and {len(titles)} titles; give one title for each of the pictures"
        )
    height = max(picture.height for picture in pictures)
    row = [_to_height(picture.convert("RGB"), height) for picture in pictures]
    font = font_of(font_size((height, max(picture.width for picture in row))) + 2, letters_of(titles))
    gap, header = round(0.6 * font.size), round(2.2 * font.size)
    canvas = Image.new("RGB", (sum(p.width + gap for p in row) - gap, height + header), (255, 255, 255))
    pen, left = ImageDraw.Draw(canvas), 0
    for picture, title in zip(row, titles, strict=True):
        text = shorten(title, font, picture.width)
        pen.text((left + 2, header / 2), text, fill=(32, 36, 44), font=font, anchor="lm")
        canvas.paste(picture, (left, header))
        left += picture.width + gap
    return canvas


# --- segments and colours ---


def _compact(panoptic: Panoptic) -> tuple[tuple[Segment, ...], Int[np.ndarray, "H W"]]:
    """The segments by id, and for each pixel the row of its segment plus one; 0 is void."""
    segments = tuple(sorted(panoptic.segments, key=lambda segment: segment.id))
    known = np.array([VOID_ID, *(segment.id for segment in segments)], dtype=np.int64)
    index = np.searchsorted(known, panoptic.ids).clip(max=len(known) - 1).astype(np.int32)
    strange = panoptic.ids != known[index]
    if strange.any():
        identity = panoptic.ids[strange][0]
        raise InputError(
            f"panoptic map has pixels of id {identity}, which is in none of its segments; list it or write 0"
        )
    return segments, index


def _category(labels: LabelSet, category_id: int) -> Category:
    if category_id not in labels.index:
        raise InputError(
            f"category id {category_id} is not in the label set; draw with the labels it was predicted with"
        )
    return labels.categories[labels.index[category_id]]


def _variant(color: _Color, variant: int) -> _Color:
    # The tints furthest from the colour are left out: they would grey it.
    nearest = np.argsort(np.square(_TINTS - np.array(color)).sum(axis=1), kind="stable")
    tint = _TINTS[nearest[variant % _VARIANTS]]
    red, green, blue = (1 - _TINT) * np.array(color) + _TINT * tint
    return round(red), round(green), round(blue)


def _mix(color: _Color, grey: int, share: float) -> _Color:
    red, green, blue = (round((1 - share) * value + share * grey) for value in color)
    return red, green, blue


def _segment_colors(
    segments: Sequence[Segment], index: Int[np.ndarray, "H W"], labels: LabelSet
) -> Float32[np.ndarray, "n 3"]:
    """Colour of void and of each segment."""
    kinds = np.array([-1] + [s.category_id if s.isthing else -1 for s in segments])
    neighbours = _neighbours(index, kinds)
    colors: list[_Color] = [_VOID_COLOR]
    variants = [-1]
    for row, segment in enumerate(segments, start=1):
        color = _category(labels, segment.category_id).color
        variant = -1
        if segment.isthing:
            taken = {variants[other] for other in neighbours.get(row, ())}
            # Multiplicative hash: ids in sequence and random ids are spread alike.
            start = (segment.id * 2654435761 >> 16) % _VARIANTS
            choices = [(start + step) % _VARIANTS for step in range(_VARIANTS)]
            variant = next((choice for choice in choices if choice not in taken), start)
            color = _variant(color, variant)
        colors.append(color)
        variants.append(variant)
    return np.array(colors, dtype=np.float32)


def _neighbours(index: Int[np.ndarray, "H W"], kinds: Int[np.ndarray, " n"]) -> dict[int, list[int]]:
    """The rows below each row that lie near it and are things of the same class."""
    count = len(kinds)
    found = [np.empty(0, np.int64)]
    for gap in (1, 1 + min(index.shape) // 24):
        for first, second in ((index[:, :-gap], index[:, gap:]), (index[:-gap], index[gap:])):
            differ = first != second
            low, high = first[differ].astype(np.int64), second[differ].astype(np.int64)
            alike = (kinds[low] == kinds[high]) & (kinds[low] >= 0)
            low, high = low[alike], high[alike]
            found.append(np.minimum(low, high) + count * np.maximum(low, high))
    neighbours: dict[int, list[int]] = {}
    for pair in np.unique(np.concatenate(found)).tolist():
        neighbours.setdefault(pair // count, []).append(pair % count)
    return neighbours


def _edge_colors(colors: Float32[np.ndarray, "n 3"], segments: Sequence[Segment]) -> Float32[np.ndarray, "n 3"]:
    isthing = np.array([[False]] + [[segment.isthing] for segment in segments])
    return np.where(isthing, 0.35 * colors + 0.65 * 255, 0.45 * colors).astype(np.float32)


def _edges(index: Int[np.ndarray, "H W"]) -> Bool[np.ndarray, "H W"]:
    """Pixels along a change of segment, on both sides of it; wider in large pictures, which are looked at reduced."""
    edge = np.zeros(index.shape, dtype=bool)
    for gap in range(1, 1 + min(4, max(1, min(index.shape) // 700))):
        across, down = index[:, gap:] != index[:, :-gap], index[gap:] != index[:-gap]
        edge[:, gap:] |= across
        edge[:, :-gap] |= across
        edge[gap:] |= down
        edge[:-gap] |= down
    return edge


def _paint_mask(
    drawing: Float32[np.ndarray, "H W 3"], mask: Bool[np.ndarray, "h w"], factor: int, color: _Color, opacity: float
) -> None:
    """Blend one mask and its edge into ``drawing``, touching only the rows and columns it covers."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return
    top, left = max(rows[0] - 1, 0), max(columns[0] - 1, 0)
    part = _repeat(mask[top : rows[-1] + 2, left : columns[-1] + 2].astype(np.int32), factor)
    region = drawing[top * factor :, left * factor :][: part.shape[0], : part.shape[1]]
    inside = part > 0
    region[inside] += opacity * (np.array(color, dtype=np.float32) - region[inside])
    region[inside & _edges(part)] = _mix(color, 255, 0.65)


# --- sizes ---


def _size_text(array: np.ndarray) -> str:
    return f"{array.shape[1]} x {array.shape[0]}"


def _enlargement(size: Sequence[int], enlarge_to: int) -> int:
    """Smallest whole factor that makes the longer side reach ``enlarge_to``."""
    return max(1, -(-enlarge_to // max(size)))


def _repeat(array: Int[np.ndarray, "h w"], factor: int) -> Int[np.ndarray, "H W"]:
    return array if factor == 1 else array.repeat(factor, axis=0).repeat(factor, axis=1)


def _enlarge_photo(image: UInt8[np.ndarray, "h w 3"], factor: int) -> Float32[np.ndarray, "H W 3"]:
    if factor > 1:
        size = (image.shape[1] * factor, image.shape[0] * factor)
        image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
    return image.astype(np.float32)


def _to_height(picture: Image.Image, height: int) -> Image.Image:
    if picture.height == height:
        return picture
    width = max(1, round(picture.width * height / picture.height))
    return picture.resize((width, height), Image.Resampling.LANCZOS)
