import json

import numpy as np
import pytest
from PIL import Image

from thingstuff.compare_report import ComparedFiles, write_comparison
from thingstuff.errors import InputError
from thingstuff.evaluation.compare import compare
from thingstuff.structures import encode_ids

CATEGORIES = [{"id": 1, "name": "person", "isthing": 1}, {"id": 5, "name": "sky & sea", "isthing": 0}]


def write(root, name, shifts):
    (root / name).mkdir()
    annotations, images = [], []
    for number, shift in enumerate(shifts):
        ids = np.full((20, 30), 2, dtype=np.int32)
        ids[5:15, 5 + shift : 15 + shift] = 1
        Image.fromarray(encode_ids(ids)).save(root / name / f"{number}.png")
        infos = [
            {"id": i, "category_id": category, "area": int((ids == i).sum()), "iscrowd": 0}
            for i, category in ((1, 1), (2, 5))
        ]
        annotations.append({"image_id": number, "file_name": f"{number}.png", "segments_info": infos})
        images.append({"id": number, "file_name": f"photo{number}.jpg", "height": 20, "width": 30})
    document = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    path = root / f"{name}.json"
    path.write_text(json.dumps(document))
    return path


@pytest.fixture
def files(tmp_path):
    gt, a, b = (
        write(tmp_path, n, s) for n, s in (("gt", [0] * 6), ("a", [0, 1, 2, 3, 4, 5]), ("b", [5, 4, 3, 2, 1, 1]))
    )
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (30, 20), (90, 120, 150)).save(tmp_path / "photos" / "photo0.jpg")
    Image.new("RGB", (7, 7)).save(tmp_path / "photos" / "photo1.jpg")
    return ComparedFiles(a, b, gt, images=tmp_path / "photos")


def page(files, tmp_path, **options):
    comparison = compare(files.a, files.b, files.gt, resamples=50)
    write_comparison(tmp_path / "out" / "compare.html", comparison, files, **options)
    return (tmp_path / "out" / "compare.html").read_text()


def test_page_shows_differences_causes_and_pictures(files, tmp_path):
    text = page(files, tmp_path)
    assert text.count("<figure class='example card'>") == 6
    assert text.count("<img ") == 18
    assert "PQ of all, B minus A" in text
    assert "PQ regained by mending: localisation" in text
    assert "sky &amp; sea" in text
    # In the order of the difference: first where B loses most.
    assert text.index("<span class='caption'>0.png") < text.index("<span class='caption'>5.png")


def test_only_the_extremes_are_shown(files, tmp_path):
    text = page(files, tmp_path, pictures=2)
    assert [f"<span class='caption'>{n}.png" in text for n in range(6)] == [True, False, False, False, False, True]


def test_prediction_that_is_missing_is_left_out(files, tmp_path):
    (tmp_path / "b" / "0.png").unlink()
    comparison = compare(files.a, files.b, files.gt, resamples=50, lenient=True)
    write_comparison(tmp_path / "compare.html", comparison, files)
    text = (tmp_path / "compare.html").read_text()
    assert "Warning: prediction left out, 1 times" in text


def test_missing_folder_of_photographs(files, tmp_path):
    comparison = compare(files.a, files.b, files.gt, resamples=10)
    wrong = ComparedFiles(files.a, files.b, files.gt, images=tmp_path / "nowhere")
    with pytest.raises(InputError, match="nowhere: there is no such folder of photographs"):
        write_comparison(tmp_path / "compare.html", comparison, wrong)
