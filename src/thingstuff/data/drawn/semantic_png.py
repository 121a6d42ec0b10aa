"""One PNG file of classes for every picture, which tells no objects apart (see ``png_folders``)."""

from pathlib import Path

from thingstuff.data.drawn.png_folders import PngFolders, open_png_folders, recognize_png_folders


def recognize(source: Path) -> bool:
    """Whether there are folders of pictures and semantic PNG files."""
    return recognize_png_folders(source, with_instances=False)


def open_semantic_png(source: Path) -> PngFolders:
    """Open them.

    Raises:
        InputError: A folder or file is missing.
    """
    return open_png_folders(source, with_instances=False)
