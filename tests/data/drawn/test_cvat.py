"""Exports as CVAT writes them: the layout of its zip files, unpacked."""

import math
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from thingstuff.data.drawn.cvat import open_cvat, recognize
from thingstuff.data.drawn.drawing import Drawing, DrawingSource, DrawnCategory, Piece
from thingstuff.errors import InputError

META = """<meta>
    <task>
      <id>4</id>
      <name>streets</name>
      <size>2</size>
      <mode>annotation</mode>
      <labels>
        <label><name>car</name><color>#0000ff</color><type>any</type><attributes></attributes></label>
        <label><name>road</name><color>#804080</color><type>any</type><attributes></attributes></label>
        <label><name>lane</name><color>#ffffff</color><type>polyline</type><attributes></attributes></label>
      </labels>
      <segments><segment><id>4</id><start>0</start><stop>1</stop><url>http://localhost:8080/api/jobs/4</url></segment></segments>
      <owner><username>admin</username><email></email></owner>
    </task>
    <dumped>2024-05-02 11:38:28.799808+00:00</dumped>
  </meta>"""


def shape(kind: str, **attributes: object) -> str:
    given = {"label": "car", "source": "manual", "occluded": 0, "z_order": 0} | attributes
    listed = " ".join(f"{name}={quoteattr(str(value))}" for name, value in given.items() if value is not None)
    return f"<{kind} {listed}></{kind}>"


def picture(*shapes: str, name: str = "a.png", width: object = 8, height: object = 6, subset: str = "") -> str:
    subset = f' subset="{subset}"' if subset else ""
    return f'<image id="0" name="{name}"{subset} width="{width}" height="{height}">{"".join(shapes)}</image>'


def write_export(root: Path, *images: str, meta: str = META, names: tuple[str, ...] = ("a.png",)) -> Path:
    root.mkdir(exist_ok=True)
    text = f'<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n  <version>1.1</version>\n  {meta}\n'
    (root / "annotations.xml").write_text(f"{text}{''.join(images)}\n</annotations>\n", encoding="utf-8")
    for name in names:
        (root / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6)).save(root / "images" / name)
    return root


def full(piece: Piece, drawing: Drawing) -> np.ndarray:
    mask = np.zeros(drawing.size, dtype=bool)
    (top, left), (height, width) = piece.corner, piece.mask.shape
    mask[top : top + height, left : left + width] = piece.mask
    return mask


def read_one(root: Path, *shapes: str) -> np.ndarray:
    """The mask of the only piece."""
    drawing = open_cvat(write_export(root, picture(*shapes))).read(0)
    (piece,) = drawing.pieces
    return full(piece, drawing)


def rows(*texts: str) -> np.ndarray:
    return np.array([[character == "#" for character in text] for text in texts])


def refused(root: Path, *parts: str) -> None:
    """Opening or reading fails with one line that has all ``parts``."""
    with pytest.raises(InputError) as caught:
        open_cvat(root).read(0)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


# --- what is in an export ---


def test_pictures_categories_and_splits(tmp_path):
    root = write_export(
        tmp_path,
        picture(shape("polygon", points="0,0;2,0;2,2;0,2"), subset="Train"),
        picture(name="city/b.png", subset="Validation"),
        names=("Train/a.png", "city/b.png"),
    )
    source: DrawingSource = open_cvat(root)
    # A label for lines alone is no category of pixels.
    assert source.categories == (DrawnCategory("car", None, (0, 0, 255)), DrawnCategory("road", None, (128, 64, 128)))
    assert len(source) == 2
    first, second = source.read(0), source.read(1)
    assert (first.image, first.size, first.split) == (root / "images/Train/a.png", (6, 8), "Train")
    assert (second.image, second.pieces, second.split) == (root / "images/city/b.png", (), "Validation")
    assert len(open_cvat(root / "annotations.xml")) == 2


def test_pictures_of_one_name_in_two_subsets(tmp_path):
    root = write_export(tmp_path, picture(), picture(subset="train"), names=("a.png", "train/a.png"))
    assert [open_cvat(root).read(index).image for index in (0, 1)] == [
        root / "images/a.png",
        root / "images/train/a.png",
    ]
    refused(write_export(tmp_path / "twice", picture(), picture()), "annotations.xml: lists the picture", "a.png twice")


def test_frames_of_a_video_exported_as_images_have_names_without_suffix(tmp_path):
    root = write_export(tmp_path, picture(name="frame_000003"), names=("frame_000003.PNG",))
    assert open_cvat(root).read(0).image == root / "images/frame_000003.PNG"


def test_labels_of_a_project_and_of_a_file_without_meta(tmp_path):
    project = META.replace("<task>", "<project>").replace("</task>", "</project>")
    source = open_cvat(write_export(tmp_path / "project", picture(), meta=project))
    assert [category.name for category in source.categories] == ["car", "road"]
    bare = write_export(tmp_path / "bare", picture(shape("box", label="cat", xtl=0, ytl=0, xbr=1, ybr=1)), meta="")
    assert open_cvat(bare).categories == (DrawnCategory("cat"),)


def test_recognize(tmp_path):
    root = write_export(tmp_path / "export", picture())
    assert recognize(root)
    assert recognize(root / "annotations.xml")
    assert not recognize(root / "images/a.png")
    assert not recognize(tmp_path)
    assert not recognize(tmp_path / "absent")
    (tmp_path / "other.xml").write_text("<annotation><filename>a.jpg</filename></annotation>")  # Pascal VOC
    assert not recognize(tmp_path / "other.xml")


# --- shapes ---


def test_polygon(tmp_path):
    mask = read_one(tmp_path, shape("polygon", points="1.00,1.00;5.00,1.00;5.00,4.00;1.00,4.00"))
    np.testing.assert_array_equal(mask, rows("........", ".####...", ".####...", ".####...", "........", "........"))


def test_box(tmp_path):
    mask = read_one(tmp_path, shape("box", xtl="6.00", ytl="0.40", xbr="8.00", ybr="2.60"))
    np.testing.assert_array_equal(mask, rows("......##", "......##", "......##", "........", "........", "........"))


def test_a_box_turns_around_its_centre(tmp_path):
    # 4 x 2 pixels around (4, 3), a quarter turn: 2 x 4.
    mask = read_one(tmp_path, shape("box", xtl=2, ytl=2, xbr=6, ybr=4, rotation="90.00"))
    np.testing.assert_array_equal(mask, rows("........", "...##...", "...##...", "...##...", "...##...", "........"))


def test_angles_are_clockwise(tmp_path):
    # A bar along x, turned by 45 degrees, falls to the right as seen on the screen.
    mask = read_one(tmp_path, shape("box", xtl=1, ytl=2.5, xbr=7, ybr=3.5, rotation=45))
    assert mask[1, 2]
    assert mask[4, 5]
    assert not mask[1, 5]
    assert not mask[4, 2]


def test_a_turned_box_may_reach_out_of_the_picture(tmp_path):
    mask = read_one(tmp_path, shape("box", xtl=0, ytl=2, xbr=8, ybr=4, rotation=90))
    np.testing.assert_array_equal(mask, np.tile(rows("...##..."), (6, 1)))


def test_ellipse(tmp_path):
    mask = read_one(tmp_path, shape("ellipse", cx=4, cy=3, rx=3, ry=1.2))
    row, column = np.mgrid[:6, :8] + 0.5
    np.testing.assert_array_equal(mask, ((column - 4) / 3) ** 2 + ((row - 3) / 1.2) ** 2 < 1)
    turned = read_one(tmp_path, shape("ellipse", cx=4, cy=3, rx=2.8, ry=1.2, rotation=30))
    cosine, sine = math.cos(math.pi / 6), math.sin(math.pi / 6)
    along, across = (column - 4) * cosine + (row - 3) * sine, (row - 3) * cosine - (column - 4) * sine
    np.testing.assert_array_equal(turned, (along / 2.8) ** 2 + (across / 1.2) ** 2 < 1)


def test_mask(tmp_path):
    # 0 pixels outside, 1 inside, 2 outside, 3 inside, row by row of a box of 3 x 2.
    mask = read_one(tmp_path, shape("mask", rle="0, 1, 2, 3", left=4, top=1, width=3, height=2))
    np.testing.assert_array_equal(mask, rows("........", "....#...", "....###.", "........", "........", "........"))


def run_lengths(mask: np.ndarray) -> str:
    runs, value = [0], False
    for pixel in mask.ravel().tolist():
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return ", ".join(map(str, runs))


@given(mask=arrays(bool, (6, 8)))
def test_masks_keep_every_pixel(tmp_path_factory, mask):
    root = tmp_path_factory.mktemp("export")
    read = read_one(root, shape("mask", rle=run_lengths(mask[1:5, 2:]), left=2, top=1, width=6, height=4))
    np.testing.assert_array_equal(read[1:5, 2:], mask[1:5, 2:])
    assert not read[0].any()
    assert not read[:, :2].any()


@given(labels=arrays(np.int64, (6, 8), elements=st.integers(0, 3)))
def test_a_picture_of_masks_keeps_every_pixel(tmp_path_factory, labels):
    root = tmp_path_factory.mktemp("export")
    shapes = [
        shape("mask", rle=run_lengths(labels == value), left=0, top=0, width=8, height=6, group_id=value)
        for value in (1, 2, 3)
    ]
    drawing = open_cvat(write_export(root, picture(*shapes))).read(0)
    painted = np.zeros((6, 8), dtype=np.int64)
    for piece in drawing.pieces:
        painted[full(piece, drawing)] = int(str(piece.group))
    np.testing.assert_array_equal(painted, labels)


def test_order_is_that_of_levels_then_of_drawing(tmp_path):
    sides = {"xtl": 0, "ytl": 0, "xbr": 1, "ybr": 1}
    shapes = [shape("box", group_id=name, z_order=level, **sides) for name, level in [("1", 2), ("2", -1), ("3", 2)]]
    shapes.append(shape("box", z_order=None, group_id=0, **sides))
    drawing = open_cvat(write_export(tmp_path, picture(*shapes))).read(0)
    # Group 0 is CVAT's word for no group.
    assert [piece.group for piece in drawing.pieces] == ["2", None, "1", "3"]


def test_what_has_no_area_is_left_out_with_a_warning(tmp_path):
    shapes = [
        shape("polyline", label="lane", points="0,0;5,5"),
        shape("points", points="1,1;2,2"),
        shape("points", points="1,1"),
        '<tag label="road" source="manual"></tag>',
        shape("box", xtl=0, ytl=0, xbr=1, ybr=1),
    ]
    root = write_export(tmp_path, picture(*shapes))
    with pytest.warns(UserWarning, match=r"left out: 1 of the kind polyline, 2 of the kind points$"):
        source = open_cvat(root)
    assert len(source.read(0).pieces) == 1
    assert [category.name for category in source.categories] == ["car", "road"]


# --- video ---


def track(*shapes: str, label: str = "car", number: int = 0, group: str = "", task: str = "") -> str:
    group = f' group_id="{group}"' if group else ""
    task = f' task_id="{task}" subset="default"' if task else ""
    return f'<track id="{number}" label="{label}" source="manual"{task}{group}>{"".join(shapes)}</track>'


def seen(frame: object, kind: str = "box", outside: int = 0, **attributes: object) -> str:
    sides = {"xtl": 0, "ytl": 0, "xbr": 2, "ybr": 2} if kind == "box" else {}
    given = {"label": None, "source": None, "frame": frame, "keyframe": 1, "outside": outside}
    return shape(kind, **(given | sides | attributes))


VIDEO_META = META.replace(
    "</task>", "<original_size><width>8</width><height>6</height></original_size></task>"
).replace("<mode>annotation</mode>", "<mode>interpolation</mode>")


def test_video(tmp_path):
    root = write_export(
        tmp_path,
        track(seen(0), seen(1, keyframe=0, xtl=1, xbr=3), seen(2, outside=1), group="7"),
        track(
            seen(1, "polygon", points="0,0;8,0;8,6;0,6", z_order=-1), seen(5, "polygon", 1, points="0,0;8,0;8,6;0,6"),
            label="road", number=1,
        ),
        meta=VIDEO_META,
        names=("frame_000000.PNG", "frame_000001.PNG", "frame_000002.PNG", "frame_000003.PNG"),
    )  # fmt: skip
    source = open_cvat(root)
    # On frame 2 the car is outside, and nothing else is drawn there.
    assert [source.read(index).image.name for index in range(len(source))] == ["frame_000000.PNG", "frame_000001.PNG"]
    first, second = source.read(0), source.read(1)
    assert [(piece.category, piece.group) for piece in first.pieces] == [("car", "7")]
    assert [(piece.category, piece.group) for piece in second.pieces] == [("road", None), ("car", "7")]
    assert full(second.pieces[1], second)[0].tolist() == [False, True, True, False, False, False, False, False]
    assert second.size == (6, 8)


def test_frames_may_be_plain_numbers_beside_the_file(tmp_path):
    root = write_export(tmp_path, track(seen(12)), meta=VIDEO_META, names=())
    Image.new("RGB", (8, 6)).save(root / "0012.jpg")
    assert open_cvat(root).read(0).image == root / "0012.jpg"


def test_wrong_videos(tmp_path):
    names = ("frame_000000.png",)
    missing = write_export(tmp_path / "1", track(seen(0), seen(3)), meta=VIDEO_META, names=names)
    refused(missing, "annotations.xml: 1 picture is missing, the first is frame_000003; put them into one of")
    twice = write_export(tmp_path / "2", track(seen(0), seen(0)), meta=VIDEO_META, names=names)
    refused(twice, "annotations.xml: track 0: has two shapes on frame 0; remove one")
    size = write_export(tmp_path / "3", track(seen(0)), meta=VIDEO_META.replace("<width>8", "<width>16"), names=names)
    refused(size, "frame_000000.png: 8 x 6 pixels (width x height), but annotations.xml says 16 x 6")
    (tmp_path / "5/images/frame_000000.png").mkdir(parents=True)
    folder = write_export(tmp_path / "5", track(seen(0)), meta=VIDEO_META, names=())
    refused(folder, "annotations.xml: 1 picture is missing, the first is frame_000000")
    number = write_export(tmp_path / "4", track(seen("x")), meta=VIDEO_META, names=names)
    refused(number, "annotations.xml: track 0: frame is 'x'; expected a finite number")


# What CVAT writes of a single job.
JOB_META = META.replace("<task>", "<job>").replace("</task>", "</job>")


def project(*tasks: tuple[int, str, int]) -> str:
    """What CVAT writes of a project: the id, the mode and the width of each task, 0 of one that is no video."""
    listed = ""
    for number, mode, width in tasks:
        size = f"<original_size><width>{width}</width><height>6</height></original_size>" if width else ""
        listed += f"<task><id>{number}</id><name>t</name><mode>{mode}</mode>{size}</task>"
    return f"<meta><project><id>1</id><tasks>{listed}</tasks></project></meta>"


@pytest.mark.parametrize("meta", [META, JOB_META, project((4, "annotation", 0), (5, "interpolation", 8))])
def test_tasks_of_pictures_exported_as_a_video_are_refused(tmp_path, meta):
    # Frame 0 is the first picture of the task, here 7.png.
    root = write_export(tmp_path, track(seen(7)), meta=meta, names=("7.png", "8.png"))
    refused(root, "annotations.xml: the task has the mode 'annotation'", "export as 'CVAT for images 1.1'")


@pytest.mark.parametrize("meta", ["", META.replace("<mode>annotation</mode>", ""), VIDEO_META])
def test_videos_without_a_mode(tmp_path, meta):
    root = write_export(tmp_path, track(seen(0)), meta=meta, names=("frame_000000.png",))
    assert len(open_cvat(root)) == 1


def test_tasks_of_a_project_have_modes_of_their_own(tmp_path):
    meta = project((4, "annotation", 0), (5, "interpolation", 8))
    names = ("frame_000000.png",)
    assert len(open_cvat(write_export(tmp_path / "video", track(seen(0), task="5"), meta=meta, names=names))) == 1
    pictures = write_export(tmp_path / "pictures", track(seen(0), task="4"), meta=meta, names=names)
    refused(pictures, "annotations.xml: task 4 has the mode 'annotation'")


def test_videos_of_a_project_have_sizes_of_their_own(tmp_path):
    meta = project((4, "interpolation", 16), (5, "interpolation", 8))
    names = ("frame_000000.png", "frame_000001.png")
    tracks = [track(seen(0), task="4"), track(seen(1), task="5", number=1)]
    root = write_export(tmp_path, *tracks, meta=meta, names=names)
    refused(root, "frame_000000.png: 8 x 6 pixels (width x height), but annotations.xml says 16 x 6")
    Image.new("RGB", (16, 6)).save(root / "images/frame_000000.png")
    source = open_cvat(root)
    assert [source.read(index).size for index in (0, 1)] == [(6, 16), (6, 8)]


def test_sizes_of_several_videos_are_not_compared_with_tracks_that_name_none(tmp_path):
    meta = project((4, "interpolation", 16), (5, "interpolation", 8))
    root = write_export(tmp_path / "several", track(seen(0)), meta=meta, names=("frame_000000.png",))
    assert open_cvat(root).read(0).size == (6, 8)
    meta = project((4, "interpolation", 16), (5, "interpolation", 16))
    root = write_export(tmp_path / "same", track(seen(0)), meta=meta, names=("frame_000000.png",))
    refused(root, "annotations.xml says 16 x 6")
    job = JOB_META.replace("annotation<", "interpolation<").replace("</meta>", "<original_size></original_size></meta>")
    job = job.replace("<original_size>", "<original_size><width>16</width><height>6</height>")
    refused(write_export(tmp_path / "job", track(seen(0)), meta=job, names=("frame_000000.png",)), "says 16 x 6")


# --- what is wrong with a file ---


def test_files_that_define_entities_are_refused(tmp_path):
    entities = '<!DOCTYPE lolz [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    (tmp_path / "annotations.xml").write_text(f"{entities}<annotations><meta>&b;</meta></annotations>")
    refused(tmp_path, "annotations.xml: defines a document type, which no export of CVAT has")
    outside = '<!DOCTYPE x SYSTEM "file:///etc/passwd"><annotations><meta/></annotations>'
    (tmp_path / "annotations.xml").write_text(outside)
    refused(tmp_path, "annotations.xml: defines a document type")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotations><image", "annotations.xml: cannot be read as XML ("),
        ("", "annotations.xml: cannot be read as XML (no element found"),
        ("\x00\x01", "annotations.xml: cannot be read as XML ("),
        ("<annotation/>", "annotations.xml: begins with <annotation>, not with <annotations>"),
        ("<annotations/>", "annotations.xml: has neither an <image> nor a <track>"),
    ],
)
def test_wrong_files(tmp_path, text, message):
    (tmp_path / "annotations.xml").write_text(text)
    refused(tmp_path, message)


def test_no_file(tmp_path):
    refused(tmp_path, "annotations.xml: there is no such file; name the unpacked export")
    write_export(tmp_path / "task_1", picture())
    refused(tmp_path, f"annotations.xml: there is no such file; name {tmp_path / 'task_1'}")
    assert not recognize(tmp_path)
    write_export(tmp_path / "task_2", picture())
    refused(tmp_path, "annotations.xml: there is no such file; name the unpacked export")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (picture(name=""), "annotations.xml: <image> 1 has no name"),
        (picture(name="../a.png"), "annotations.xml: ../a.png: the name '../a.png' leads out of the export's folder"),
        (picture(name="/etc/a.png"), "the name '/etc/a.png' leads out of the export's folder"),
        (picture(name="C:\\a.png"), "leads out of the export's folder"),
        (picture(name="b.png"), "annotations.xml: 1 picture is missing, the first is b.png; put them into one of"),
        (picture(width="wide"), "annotations.xml: a.png: width is 'wide'; expected a finite number"),
        (picture(height=0), "annotations.xml: a.png: 8 x 0 pixels (width x height)"),
        (picture(shape("box", label=None, xtl=0, ytl=0, xbr=1, ybr=1)), "a.png: a <box> has no label; give it one"),
        (
            picture(shape("box", label="dog", xtl=0, ytl=0, xbr=1, ybr=1)),
            "annotations.xml: a.png: box 1 (dog): the label is not in the list of labels",
        ),
        (picture(shape("box", xtl=0, ytl=0, xbr=1)), "annotations.xml: a.png: box 1 (car): ybr is None; expected a"),
        (picture(shape("box", xtl=0, ytl="nan", xbr=1, ybr=1)), "box 1 (car): ytl is 'nan'; expected a finite number"),
        (picture(shape("box", xtl=0, ytl=0, xbr="1e99", ybr=1)), "xbr is '1e99'; expected a finite number"),
        (picture(shape("box", xtl=0, ytl=0, xbr=20, ybr=1)), "a.png: box 1 (car): the point (20, 1) lies outside the"),
        (picture(shape("box", xtl=20, ytl=0, xbr=30, ybr=1, rotation=5)), "box 1 (car): lies outside the picture of"),
        (picture(shape("box", xtl=0, ytl=0, xbr=2, ybr=1, rotation="x")), "box 1 (car): rotation is 'x'; expected a"),
        (picture(shape("box", xtl=0, ytl=0, xbr=2, ybr=1, z_order="up")), "box 1 (car): z_order is 'up'; expected a"),
        (picture(shape("polygon", points="0,0;1,1")), "polygon 1 (car): a polygon of 2 points has no area"),
        (picture(shape("polygon", points="")), "polygon 1 (car): a polygon of 0 points has no area"),
        (picture(shape("polygon", points="0,0;1;2,2")), "polygon 1 (car): its points are not pairs of numbers"),
        (picture(shape("polygon", points="0,0;1,x;2,2")), "polygon 1 (car): its points are not pairs of numbers"),
        (picture(shape("polygon", points="0,0;1,inf;2,2")), "polygon 1 (car): a coordinate is not a finite number"),
        (picture(shape("polygon", points="0,0;90,0;2,2")), "polygon 1 (car): the point (90, 0) lies outside"),
        (picture(shape("ellipse", cx=1, cy=1, rx=0, ry=2)), "ellipse 1 (car): rx is 0 and ry is 2; both must be more"),
        (picture(shape("ellipse", cx=-9, cy=1, rx=2, ry=2)), "ellipse 1 (car): lies outside the picture of 8 x 6"),
        (
            picture(shape("mask", rle="0,4", left=7, top=0, width=2, height=2)),
            "mask 1 (car): its box of 2 x 2 pixels at left 7, top 0 does not lie in the picture of 8 x 6",
        ),
        (picture(shape("mask", rle="0,4", left=0, top=0, width=2, height="2.5")), "height is '2.5'; expected a whole"),
        (picture(shape("mask", rle="0,3", left=0, top=0, width=2, height=2)), "the runs of rle have 3 pixels, its box"),
        (picture(shape("mask", rle="5,-1", left=0, top=0, width=2, height=2)), "mask 1 (car): the runs of rle have 4"),
        (picture(shape("mask", rle="", left=0, top=0, width=2, height=2)), "mask 1 (car): rle is not a list of whole"),
        (picture(shape("mask", rle="9" * 40, left=0, top=0, width=2, height=2)), "rle is not a list of whole numbers"),
    ],
)  # fmt: skip
def test_wrong_pictures_and_shapes(tmp_path, image, message):
    refused(write_export(tmp_path, image), message)
