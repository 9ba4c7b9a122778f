"""Folders, patterns, archives and spreadsheets: rows come out with their place, or one clear error does."""

import gzip
import io
import json
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict

from made_files import write_objects, write_xlsx, write_zip
from seodang.data.read.containers import data_file
from seodang.data.read.containers.find_files import find_files
from seodang.data.read.convert import convert
from seodang.data.read.raw_rows import RawRows
from seodang.data.read.sources import local_files, read
from seodang.errors import SourceError
from seodang.recipe import Source

PAIR = {"question": "감기는 왜 걸리나요?", "answer": "바이러스 때문입니다."}
LINES = "".join(json.dumps({**PAIR, "n": n}, ensure_ascii=False) + "\n" for n in range(3)).encode()
CSV = "질문,답변\n두통은요?,쉬세요.\n".encode("cp949")


def source(*paths: Path | str, **keys: Any) -> Source:
    return Source(name="s", role="domain", path=tuple(map(str, paths)), **keys)


def rows(*paths: Path | str, **keys: Any) -> RawRows:
    return read(source(*paths, **keys))


def places(raw: RawRows, folder: Path) -> list[str]:
    return [row.where.removeprefix(f"{folder}/") for row in raw.rows()]


def error_of(*paths: Path | str, **keys: Any) -> str:
    with pytest.raises(SourceError) as caught:
        list(rows(*paths, **keys).rows())
    assert caught.value.hint
    return str(caught.value)


def parquet_bytes() -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({name: [value] for name, value in PAIR.items()}), out)
    return out.getvalue()


PACKED: dict[str, bytes] = {
    "a.jsonl.gz": gzip.compress(LINES),
    "a.jsonl.zst": pa.Codec("zstd").compress(LINES, asbytes=True),
    "a.gz": gzip.compress(LINES),
    "a.csv.gz": gzip.compress(CSV),
    "a.parquet.gz": gzip.compress(parquet_bytes()),
    "two.jsonl.gz": gzip.compress(LINES[: len(LINES) // 3]) + gzip.compress(LINES[len(LINES) // 3 :]),
}


@pytest.mark.parametrize("name", PACKED)
def test_packed_files_give_the_rows_that_they_hold(tmp_path: Path, name: str) -> None:
    """gzip and Zstandard, of any kind of file: the place is the packed file's name with the row inside."""
    (tmp_path / name).write_bytes(PACKED[name])
    raw = rows(tmp_path / name)
    first = next(iter(raw.rows()))
    assert first.where == f"{tmp_path / name}:1"
    assert set(first.fields) >= {"question", "answer"} or set(first.fields) == {"질문", "답변"}
    assert [row.fields for row in raw.rows()] == [row.fields for row in raw.rows()], "rows() starts over"


def test_a_zip_gives_all_its_files_and_any_part_of_it(tmp_path: Path) -> None:
    """Each row knows its file inside the archive; a folder, a pattern or one file of it can be named alone."""
    path = write_zip(
        tmp_path / "a.zip",
        {"train/b.jsonl": LINES, "train/a.jsonl.gz": gzip.compress(LINES), "test/c.jsonl": LINES, "읽기.txt": b"x"},
    )
    raw = rows(path)
    inner = ("test/c.jsonl", "train/a.jsonl.gz", "train/b.jsonl")
    assert places(raw, tmp_path) == [f"a.zip/{name}:{row}" for name in inner for row in (1, 2, 3)]
    assert any("left aside, not a data file" in remark and "읽기.txt" in remark for remark in raw.remarks)
    assert places(rows(f"{path}/train/b.jsonl"), tmp_path) == [f"a.zip/train/b.jsonl:{row}" for row in (1, 2, 3)]
    assert len(places(rows(f"{path}/train"), tmp_path)) == 6
    assert len(places(rows(f"{path}/t*/*.jsonl"), tmp_path)) == 6
    assert len(places(rows(f"{tmp_path}/*.zip/train/*.gz"), tmp_path)) == 3
    assert "did you mean 'train/b.jsonl'" in error_of(f"{path}/train/c.jsonl")
    assert local_files(source(path, f"{path}/train")) == [path]


def zip_bytes(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return out.getvalue()


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED])
def test_archives_in_an_archive_are_read(method: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One level: places lead through both archives, names and patterns reach into them, no temporary file is listed."""
    (temporary := tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    medical = zip_bytes({"1.json": LINES[: len(LINES) // 3], "2.csv": CSV, "3.parquet": parquet_bytes()})
    other = zip_bytes({"in/1.jsonl.gz": gzip.compress(LINES)})
    files = {"data/TL_medical.zip": medical, "data/TL_other.zip": other, "data/VL_x.zip": other, "a.jsonl": LINES}
    path = write_zip(tmp_path / "outer.zip", files, method)
    inner = ["data/TL_medical.zip/1.json:1", "data/TL_medical.zip/2.csv:1", "data/TL_medical.zip/3.parquet:1"]
    others = [f"data/TL_other.zip/in/1.jsonl.gz:{row}" for row in (1, 2, 3)]

    def found(named: str) -> list[str]:
        return [place.removeprefix("outer.zip/") for place in places(rows(f"{tmp_path}/{named}"), tmp_path)]

    assert [file.name for file in find_files(str(path)).files][:2] == [f"{path}/a.jsonl", f"{path}/{inner[0][:-2]}"]
    assert found("outer.zip/data/TL_medical.zip/1.json") == inner[:1]
    assert found("outer.zip/data/TL_medical.zip/2.csv") == inner[1:2]
    assert found("outer.zip/data/TL_medical.zip/3.parquet") == inner[2:]
    assert found("outer.zip/data/TL_other.zip") == found("*.zip/data/TL_other.zip/in") == others
    assert found("outer.zip/**/TL_o*.zip") == found("outer.zip/**/TL_*.zip/**/*.gz") == others
    assert len(find_files(f"{path}/**/TL_*.zip").files) == 4
    assert "did you mean 'data/TL_medical.zip/1.json'" in error_of(f"{path}/data/TL_medical.zip/1.jsn")
    assert local_files(source(f"{path}/data")) == [path]
    assert not list(temporary.iterdir())


def test_an_archive_that_is_not_asked_for_is_not_opened(tmp_path: Path) -> None:
    """A damaged archive beside the one that the path names is no obstacle; packed ones stay closed, and say why."""
    deep = zip_bytes({"b.jsonl": LINES})
    path = write_zip(tmp_path / "a.zip", {"x.zip": b"PK", "y.zip": zip_bytes({"b.zip": deep}), "z.zip": deep})
    assert len(places(rows(f"{path}/z.zip"), tmp_path)) == 3
    for inside in ("y.zip", "y.zip/b.zip", "y.zip/b.zip/b.jsonl"):
        assert "an archive inside an archive: unpack it first" in error_of(f"{path}/{inside}")


def test_a_full_disk_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An archive inside that must be unpacked, and finds no room: the message says where room is needed."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "missing"))
    path = write_zip(tmp_path / "a.zip", {"x.zip": zip_bytes({"b.jsonl": LINES})})
    with pytest.raises(SourceError, match="cannot be unpacked to") as caught:
        rows(path)
    assert "TMPDIR" in (caught.value.hint or "")


def test_a_table_in_a_zip_is_read_as_one_on_disk(tmp_path: Path) -> None:
    """Encodings are recognised inside archives, and readers that jump about in a file get a copy on disk."""
    path = write_zip(tmp_path / "a.zip", {"a.csv": CSV, "b.parquet": parquet_bytes()})
    assert [row.fields for row in rows(f"{path}/a.csv").rows()] == [{"질문": "두통은요?", "답변": "쉬세요."}]
    assert rows(f"{path}/a.csv").remarks == ("read as CP949 (Korean Windows)",)
    assert [row.fields for row in rows(f"{path}/b.parquet").rows()] == [PAIR]


def test_names_that_korean_windows_wrote_are_readable(tmp_path: Path) -> None:
    """A zip without the UTF-8 flag holds CP949 names: messages and paths show Korean."""
    path = tmp_path / "a.zip"
    write_cp949_zip(path, "질의응답.jsonl", LINES)
    assert places(rows(path), tmp_path)[0] == "a.zip/질의응답.jsonl:1"
    assert len(places(rows(f"{path}/질의응답.jsonl"), tmp_path)) == 3


def write_cp949_zip(path: Path, name: str, content: bytes) -> None:
    """A stored zip entry whose name is CP949 bytes, flags zero: the records of the format, by hand."""
    stored, crc = name.encode("cp949"), zlib.crc32(content)
    sizes = crc.to_bytes(4, "little") + 2 * len(content).to_bytes(4, "little")
    fields = b"\x14\0" + bytes(2) + bytes(2) + bytes(4) + sizes + len(stored).to_bytes(2, "little") + bytes(2)
    local = b"PK\x03\x04" + fields + stored + content
    central = b"PK\x01\x02\x14\0" + fields + bytes(2 + 2 + 2 + 4 + 4) + stored
    end = b"PK\x05\x06" + bytes(4) + b"\1\0\1\0" + len(central).to_bytes(4, "little")
    path.write_bytes(local + central + end + len(local).to_bytes(4, "little") + bytes(2))


def _encrypted(path: Path) -> None:
    write_zip(path, {"a.json": LINES})
    raw = bytearray(path.read_bytes())
    raw[raw.find(b"PK\x01\x02") + 8] |= 1
    raw[raw.find(b"PK\x03\x04") + 6] |= 1
    path.write_bytes(raw)


def _method(path: Path) -> None:
    write_zip(path, {"a.json": LINES})
    raw = bytearray(path.read_bytes())
    raw[raw.find(b"PK\x01\x02") + 10] = 9  # Deflate64, which Windows uses above 2 GB
    path.write_bytes(raw)


def _damaged(path: Path) -> None:
    write_zip(path, {"a.jsonl": LINES})
    raw = bytearray(path.read_bytes())
    raw[45] ^= 0xFF
    path.write_bytes(raw)


def _cut(path: Path) -> None:
    write_zip(path, {"a.jsonl": LINES})
    path.write_bytes(path.read_bytes()[:-30])


def _twice(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.jsonl", LINES)
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a.jsonl", LINES)


def _bomb(path: Path) -> None:
    write_zip(path, {f"{n}.jsonl": bytes(1 << 20) for n in range(64)})


def _bomb_of_two(path: Path) -> None:
    """Each of the archives is harmless beside the limit of 1 MiB here; both together are not."""
    write_zip(path, {f"{n}.zip": zip_bytes({"a.jsonl": bytes(600 << 10)}) for n in range(2)})


BAD_ARCHIVES: dict[str, tuple[Callable[[Path], object], str]] = {
    "encrypted": (_encrypted, "is encrypted"),
    "other method": (_method, "packed by a method"),
    "damaged": (_damaged, "cannot be unpacked"),
    "cut": (_cut, "cannot be unpacked: File is not a zip file"),
    "one name twice": (_twice, "two files of the same name"),
    "bomb": (_bomb, "more than 300 times its size"),
    "outside": (lambda path: write_zip(path, {"../../etc/a.jsonl": LINES}), "leads out of the archive"),
    "absolute": (lambda path: write_zip(path, {"/etc/a.jsonl": LINES}), "leads out of the archive"),
    "drive": (lambda path: write_zip(path, {"C:\\a.jsonl": LINES}), "leads out of the archive"),
    "archive inside one inside": (
        lambda path: write_zip(path, {"in.zip": zip_bytes({"deep.zip": zip_bytes({"a.jsonl": LINES})})}),
        "an archive inside an archive: unpack it",
    ),
    "damaged archive inside": (
        lambda path: write_zip(path, {"in.zip": b"PK\x03\x04"}),
        "in.zip: cannot be unpacked: File is not a zip file",
    ),
    "damaged stored archive inside": (
        lambda path: write_zip(path, {"in.zip": zip_bytes({"a.jsonl": LINES})[:-30]}, zipfile.ZIP_STORED),
        "in.zip: cannot be unpacked: File is not a zip file",
    ),
    "outside, from inside": (
        lambda path: write_zip(path, {"in.zip": zip_bytes({"../../a.jsonl": LINES})}),
        "leads out of the archive",
    ),
    "bomb inside": (
        lambda path: write_zip(path, {"in.zip": zip_bytes({f"{n}.jsonl": bytes(1 << 20) for n in range(64)})}),
        "more than 300 times its size",
    ),
    "bomb of two archives": (_bomb_of_two, "more than 300 times its size"),
    "empty archive inside": (lambda path: write_zip(path, {"in.zip": zip_bytes({})}), "an empty archive"),
    "no rows": (lambda path: write_zip(path, {"a.png": b"x"}), "holds no data file"),
    "empty": (lambda path: write_zip(path, {}), "holds no data file"),
    "word": (
        lambda path: write_zip(path, {"[Content_Types].xml": b"", "word/document.xml": b""}),
        "this is a Word document",
    ),
    "packed archive": (
        lambda path: path.write_bytes(gzip.compress(write_zip(path.with_suffix(".in"), {"b": b""}).read_bytes())),
        "inside another",
    ),
    "hidden archive": (
        lambda path: write_zip(path, {"a.jsonl": write_zip(path.with_suffix(".in"), {"b": b""}).read_bytes()}),
        "inside another",
    ),
}


@pytest.mark.parametrize("kind", BAD_ARCHIVES)
def test_an_archive_that_cannot_be_read_safely_is_one_clear_error(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Encrypted, damaged, nested, escaping or exploding: refused with its name and what to do, nothing unpacked."""
    monkeypatch.setattr("seodang.data.read.containers.zip_members.HARMLESS_BYTES", 1 << 20)
    make, what = BAD_ARCHIVES[kind]
    path = tmp_path / "bad.zip"
    make(path)
    message = error_of(path)
    assert message.startswith(str(path))
    assert what in message


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_anywhere_in_an_archive_is_a_source_error(tmp_path: Path, method: int) -> None:
    """Whatever the reader of its method raises: a file is refused as damaged, or what is left of it is read."""
    sound = write_zip(tmp_path / "sound.zip", {"a.jsonl": LINES}, method).read_bytes()
    for at, byte in enumerate(sound):
        path = tmp_path / f"{at}.zip"
        path.write_bytes(sound[:at] + bytes([byte ^ 0xFF]) + sound[at + 1 :])
        with suppress(SourceError):
            for file in find_files(str(path)).files:
                with file.open() as opened:
                    opened.read()


def test_a_packed_bomb_ends_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """gzip and Zstandard do not say how much they unpack to: reading stops where no data could be so well packed."""
    monkeypatch.setattr(data_file, "HARMLESS_BYTES", 1 << 20)
    for name, packed in (
        ("a.jsonl.gz", gzip.compress(bytes(1 << 24))),
        ("a.jsonl.zst", pa.compress(b" " * (1 << 24), "zstd", asbytes=True)),
    ):
        (tmp_path / name).write_bytes(packed)
        assert "300 times its size" in error_of(tmp_path / name)


def test_a_folder_is_walked_in_the_order_of_names(tmp_path: Path) -> None:
    """Files of rows at any depth, archives included; what holds no rows is named with the reason."""
    for name, content in {
        "b/deep/x.jsonl": LINES,
        "a.csv": b"question,answer\nq,a\n",
        "README.md": b"x",
        ".DS_Store": b"x",
        "dataset_info.json": b"{}",
        "big.zip.part0": b"x",
        "old.7z": b"x",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    write_zip(tmp_path / "c.zip", {"y.jsonl": LINES, "__MACOSX/y.jsonl": b"x"})
    raw = rows(tmp_path)
    assert places(raw, tmp_path)[::3] == ["a.csv:1", "b/deep/x.jsonl:3", "c.zip/y.jsonl:3"]
    aside = "\n".join(raw.remarks)
    for name, why in (
        ("README.md", "not a data file"),
        ("big.zip.part0", "a part of a split archive"),
        ("old.7z", "not a zip archive"),
        ("dataset_info.json", "a description"),
        ("__MACOSX", "hidden"),
    ):
        assert name in aside
        assert why in aside
    (tmp_path / "none").mkdir()
    assert "holds no data file" in error_of(tmp_path / "none")


def test_patterns_choose_files(tmp_path: Path) -> None:
    """`*` stays in one folder, `**` goes through all; brackets in the name of an existing folder are no pattern."""
    folder = tmp_path / "data [1]"
    for name in ("a1.jsonl", "a2.jsonl", "b1.jsonl", "in/a3.jsonl"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(LINES)
    assert len(places(rows(folder / "a*.jsonl"), folder)) == 6
    assert places(rows(folder / "**/a*.jsonl"), folder)[::3] == ["a1.jsonl:1", "a2.jsonl:1", "in/a3.jsonl:1"]
    assert "no file matches this pattern" in error_of(folder / "c*.jsonl")
    assert "not a valid pattern" in error_of(folder / "**a/*.jsonl")
    for every in ("**", "**/**"):
        assert places(rows(folder / every), folder)[::3] == ["a1.jsonl:1", "a2.jsonl:1", "b1.jsonl:1", "in/a3.jsonl:1"]
    assert places(rows(folder / "*" / "**"), folder)[::3] == ["in/a3.jsonl:1"]
    write_zip(folder / "x.zip", {"in/a.jsonl": LINES})
    write_zip(folder / "y.zip", {"out/a.jsonl": LINES})
    assert len(places(rows(folder / "*.zip/in/*.jsonl"), folder)) == 3, "an archive without such a file is passed over"
    assert "not a valid pattern" in error_of(folder / "x.zip/[z-a]*")


def test_one_object_files_are_rows(tmp_path: Path) -> None:
    """A folder of files with a byte order mark and one object each: a row a file, in blocks that workers can read."""
    write_objects(tmp_path / "many", [{**PAIR, "n": n} for n in range(20)], "{:02}.json")
    raw = rows(tmp_path / "many")
    assert raw.columns == ("question", "answer", "n")
    assert [row.where for row in raw.rows()] == [f"{tmp_path}/many/{n:02}.json:1" for n in range(1, 21)]
    assert sum(len(list(block())) for block in raw.blocks()) == 20
    assert raw.remarks == (f"20 files ({tmp_path}/many/01.json …): one JSON object: took it as one row",)
    table, counts = convert(raw, source(tmp_path / "many"))
    assert counts.kept == len(table) == 20


def test_rows_of_many_small_files_share_blocks(tmp_path: Path) -> None:
    """Lines of 30 files go to a worker together, in the files' order; the one with a broken line is named."""
    for number in range(30):
        (tmp_path / f"{number:02}.jsonl").write_bytes(LINES)
    raw = rows(tmp_path)
    (block,) = raw.blocks()
    read_at_once = list(block())
    assert block.num_rows == len(read_at_once) > 30
    assert read_at_once == list(raw.rows())
    (tmp_path / "17.jsonl").write_bytes(LINES + b'{"question": \n')
    with pytest.raises(SourceError) as refused:
        convert(rows(tmp_path), source(tmp_path))
    assert str(refused.value.where).startswith(f"{tmp_path}/17.jsonl:")


def test_a_broken_file_among_many_is_named(tmp_path: Path) -> None:
    """Files that are read together are distinguished where one is damaged, in another encoding, or several rows."""
    write_objects(tmp_path / "many", [PAIR] * 20, "{:02}.json")
    (tmp_path / "many/05.json").write_bytes(json.dumps(PAIR, ensure_ascii=False).encode("cp949"))
    (tmp_path / "many/06.json").write_bytes(json.dumps([PAIR, PAIR]).encode())
    raw = rows(tmp_path / "many")
    assert len(list(raw.rows())) == 21
    assert any("05.json: read as CP949" in remark for remark in raw.remarks)
    (tmp_path / "many/07.json").write_bytes(b'{"question": "a", ')
    assert f"{tmp_path}/many/07.json:1: broken JSON" in error_of(tmp_path / "many")


def test_files_of_different_layouts_are_never_mixed(tmp_path: Path) -> None:
    """Questions with answers beside plain texts are refused, with files of each; a pattern tells them apart."""
    write_objects(tmp_path / "all", [PAIR] * 12, "q{:02}.json")
    write_objects(tmp_path / "all", [{"c_id": 1, "content": "글"}] * 9, "c{:02}.json")
    message = error_of(tmp_path / "all")
    assert "2 different layouts: 12 with answer, question" in message
    assert "c01.json" in message
    assert len(list(rows(tmp_path / "all/q*.json").rows())) == 12
    named = [row.fields for row in rows(tmp_path / "all/q01.json", tmp_path / "all/c01.json").rows()]
    assert len(named) == 2, "files that the recipe names one by one are its own choice, and counted by convert"


def test_columns_of_no_known_meaning_may_be_missing_in_some_files(tmp_path: Path) -> None:
    """Files whose names say nothing belong together as long as some have but fewer columns than others."""
    for number in range(20):
        row = {"증상": f"두통 {number}", "소견": "휴식"} | ({"비고": "없음"} if number % 3 else {})
        write_objects(tmp_path / "all", [row], f"{number:02}.json")
    assert len(list(rows(tmp_path / "all").rows())) == 20
    write_objects(tmp_path / "all", [{"장소": "가", "시간": "나"}] * 9, "x{}.json")
    assert "2 different layouts" in error_of(tmp_path / "all")


def test_a_folder_that_save_to_disk_wrote_is_read(tmp_path: Path) -> None:
    """A data set, or the split of a `DatasetDict` that `split:` names: Arrow files with their schema."""
    table = Dataset.from_list([{**PAIR, "score": 1.5}] * 3)
    table.save_to_disk(str(tmp_path / "one"))
    raw = rows(tmp_path / "one")
    assert next(iter(raw.rows())).fields == {**PAIR, "score": "1.5"}
    assert [row.row for row in raw.rows()] == [1, 2, 3]
    DatasetDict({"train": table, "test": table.select([0])}).save_to_disk(str(tmp_path / "both"))
    assert len(list(rows(tmp_path / "both").rows())) == 3
    assert len(list(rows(tmp_path / "both", split="test").rows())) == 1
    assert any("left aside, not the split 'test'" in remark for remark in rows(tmp_path / "both", split="test").remarks)
    state = tmp_path / "one" / "state.json"
    for damaged in (
        "{",
        "[]",
        '{"_data_files": 3}',
        '{"_data_files": [3]}',
        '{"_data_files": [{"filename": "../../x"}]}',
    ):
        state.write_text(damaged, encoding="utf-8")
        assert "state.json is damaged" in error_of(tmp_path / "one")
    assert "give `split:` train or test" in error_of(tmp_path / "both", split="dev")


def test_a_spreadsheet_names_its_sheet_and_its_rows(tmp_path: Path) -> None:
    """The sheet whose columns are known is read and reported; a title above the header is passed over."""
    sheet = [
        ["의약품 상담", None],
        [],
        ["질문", "답변", "번호"],
        ["두통은?", "쉬세요.", 7],
        [None],
        ["열은?", "물을 드세요.", 1.5],
    ]
    path = write_xlsx(tmp_path / "a.xlsx", {"표지": [["제목"]], "자료": sheet, "코드": [["코드", "이름"], ["1", "가"]]})
    raw = rows(path)
    assert places(raw, tmp_path) == ["a.xlsx/자료:4", "a.xlsx/자료:6"], "rows as the spreadsheet numbers them"
    assert next(raw.rows()).fields == {"질문": "두통은?", "답변": "쉬세요.", "번호": "7"}
    assert any("sheet '자료' is read; not the others (표지, 코드)" in remark for remark in raw.remarks)
    assert raw.columns == ("질문", "답변", "번호")
    assert next(iter(rows(f"{path}/코드").rows())).fields == {"코드": "1", "이름": "가"}
    assert "unknown sheet '자료1'; did you mean '자료'" in error_of(f"{path}/자료1")
    zipped = write_zip(tmp_path / "a.zip", {"in/a.xlsx": path.read_bytes()})
    assert places(rows(zipped), tmp_path)[0] == "a.zip/in/a.xlsx/자료:4"


def test_rows_below_blank_ones_have_the_numbers_of_the_spreadsheet(tmp_path: Path) -> None:
    """A table need not begin in the first row or column."""
    sheet = [[], [], [None, "상담 자료"], [None, "질문", "답변"], [None, "두통은?", "쉬세요."]]
    raw = rows(write_xlsx(tmp_path / "a.xlsx", {"자료": sheet}))
    assert places(raw, tmp_path) == ["a.xlsx/자료:5"]
    assert "the column names are in row 4" in raw.remarks


def test_a_merged_cell_is_the_cell_of_each_of_its_rows(tmp_path: Path) -> None:
    """Several answers under one question are rows of that question; a heading across columns stays in the first."""
    sheet = [
        [],
        [None, "번호", "질문", "답변"],
        [None, 1, "두통은?", "쉬세요."],
        [None, None, None, "물을 드세요."],
        [None, None, None, None],
        [None, "■ 열", None, None],
        [None, 2, "열은?", "식히세요."],
    ]
    merged = ("A1:A2", "B3:B5", "C3:C5", "B6:D6")
    raw = rows(write_xlsx(tmp_path / "a.xlsx", {"자료": sheet}, merged))
    found = [(row.row, *row.fields.values(), len(row.changed)) for row in raw.rows()]
    assert found == [
        (3, "1", "두통은?", "쉬세요.", 0),
        (4, "1", "두통은?", "물을 드세요.", 1),
        (6, "■ 열", "", "", 0),
        (7, "2", "열은?", "식히세요.", 0),
    ]


def test_a_spreadsheet_that_is_none_is_one_clear_error(tmp_path: Path) -> None:
    """An old Office file of another kind, or a workbook without rows."""
    (tmp_path / "a.xls").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600))
    assert "not a readable spreadsheet" in error_of(tmp_path / "a.xls")
    assert "no sheet holds rows" in error_of(write_xlsx(tmp_path / "b.xlsx", {"빈": []}))
