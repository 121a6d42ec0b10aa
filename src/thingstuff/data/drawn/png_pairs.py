"""Pairs of PNG files for every picture: classes and objects (see ``png_folders``)."""

from pathlib import Path

from thingstuff.data.drawn.png_folders import PngFolders, open_png_folders, recognize_png_folders


def recognize(source: Path) -> bool:
    """Whether there are folders of pictures, semantic and instance PNG files."""
    return recognize_png_folders(source, with_instances=True)


def open_png_pairs(source: Path) -> PngFolders:
    """Open them. Pixels of a thing without object number are a crowd.

    Raises:
        InputError: A folder or file is missing.
    """
    return open_png_folders(source, with_instances=True)
