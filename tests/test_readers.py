from __future__ import annotations

import gzip
import json
import math
from collections import Counter
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from persona.errors import DataFormatError, InvalidOptionError, PersonaError, UnknownTaskError
from persona.formats import unpacking
from persona.readers import read_records
from persona.records import Record

ROWS: list[dict[str, Any]] = [
    {"user_id": "ada", "text": "Dull.", "target": "1", "time": "2011"},
    {"user_id": "ada", "text": "Great 🎬.", "target": 5, "time": "2011-2-3", "id": "r2"},
    {"user_id": 7, "text": "Plain.", "target": None, "time": None, "id": None, "metadata": None},
    {"user_id": "bob", "text": "Noted.", "id": 8, "metadata": {"film": "Bullitt", "year": 1968, "note": None}},
    {"user_id": "bob", "text": "Said.", "role": "user", "speaker": "Bob", "expires": "2030-1"},
]
ROW_RECORDS = [
    ("ada", Record("Dull.", target="1", time="2011")),
    ("ada", Record("Great 🎬.", target="5", time="2011-02-03", id="r2")),
    ("7", Record("Plain.")),
    ("bob", Record("Noted.", id="8", metadata={"film": "Bullitt", "year": "1968"})),
    ("bob", Record("Said.", role="user", speaker="Bob", expires="2030-01")),
]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


TEXTS = ("user_id", "text", "target", "time", "id", "role", "speaker", "expires")


def as_text(row: dict[str, Any]) -> dict[str, Any]:
    """`row` with strings for its numbers: a column of a table has one type."""
    metadata = row.get("metadata") or {}
    return {
        **{name: None if row.get(name) is None else str(row[name]) for name in TEXTS},
        "metadata": {name: None if value is None else str(value) for name, value in metadata.items()},
    }


def table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist([as_text(row) for row in rows])


# A JSON array of rows


@pytest.mark.parametrize("name", ["rows.json", "rows", "rows.json.gz"])
def test_a_json_array_of_rows(tmp_path: Path, name: str) -> None:
    data = json.dumps(ROWS, indent=2).encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    reader = read_records(tmp_path / name)
    assert (reader.format, list(reader)) == ("json", ROW_RECORDS)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([{"user_id": "ada", "body": "x"}], "element 0: a row must have `text`, has: user_id, body"),
        ([ROWS[0], 5], "element 1: an element must be a JSON object, was: 5 \\(int\\)"),
        ([ROWS[0], {**ROWS[0], "time": "soon"}], "element 1: a time must be like"),
        ([{"id": 1, "input": "x"}], "a question must have `profile`"),
    ],
)
def test_a_json_array_that_is_broken(tmp_path: Path, value: object, message: str) -> None:
    (tmp_path / "rows.json").write_text(json.dumps(value))
    with pytest.raises(DataFormatError, match=message):
        list(read_records(tmp_path / "rows.json"))


# How much is read


@pytest.mark.parametrize("form", ["jsonl", "json", "parquet", "lamp"])
def test_a_record_that_is_too_long_is_refused_with_its_place(tmp_path: Path, form: str) -> None:
    rows = [ROWS[0], {"user_id": "ada", "text": "x" * 600, "target": "y" * 300, "metadata": {"film": "z" * 101}}]
    path, place = tmp_path / f"long.{form}", {"jsonl": "line 2", "json": "element 1", "parquet": "row 1"}.get(form)
    if form == "jsonl":
        write_lines(path, rows)
    elif form == "json":
        path.write_text(json.dumps(rows))
    elif form == "parquet":
        pq.write_table(table(rows), path)
    else:
        profile = [{"id": "1", "text": "x" * 1005, "date": "2011-01-01"}]
        path.write_text(json.dumps([{"id": "1", "user_id": "ada", "input": "x", "profile": profile}]))
        place = "a record of 'ada'"
    with pytest.raises(DataFormatError, match=rf"{place}: a record may have 1,000 characters, has 1,005: cut or split"):
        list(read_records(path, max_characters=1000, task="LaMP_7" if form == "lamp" else None))
    assert list(read_records(path, max_characters=1005, task="LaMP_7" if form == "lamp" else None))


BLANKS = b" \n" * (1 << 24)
BOMBS = {
    "blanks.jsonl.gz": BLANKS,
    "blanks behind a record.jsonl.gz": json.dumps(ROWS[0]).encode() + BLANKS,
    "blanks in an array.json.gz": b'[{"user_id": "ada", "text": "x"},' + BLANKS,
    "blanks behind an array.json.gz": b'[{"user_id": "ada", "text": "x"}]' + BLANKS,
    "one line.jsonl.gz": b'{"user_id": "ada", "text": "' + b"x" * (1 << 28),
    "many.jsonl.gz": b'{"user_id": "ada", "text": "' + b"x" * 90_000 + b'"}\n',
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_file_that_unpacks_for_ever_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(unpacking, "ALWAYS", 1 << 24)
    path = tmp_path / name
    with gzip.open(path, "wb", compresslevel=6) as file:
        for _ in range(600 if name.startswith("many") else 1):
            file.write(BOMBS[name])
    rules = r"may unpack to 300 times|blanks or empty lines in a row|less than|may be 1,048,576 characters"
    with pytest.raises(DataFormatError, match=rules) as found:
        for _ in read_records(path):
            pass
    assert str(path) in str(found.value)
    assert str(found.value).count(str(path)) == 1


def test_a_table_that_unpacks_for_ever_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpacking, "ALWAYS", 1 << 22)
    path, every = tmp_path / "big.parquet", pa.array([0] * 200_000)
    pq.write_table(pa.table({name: pa.array(["a film " * 20]).take(every) for name in ("user_id", "text")}), path)
    with pytest.raises(DataFormatError, match=r"big.parquet: a compressed file may unpack to 300 times its size"):
        for _ in read_records(path):
            pass


def test_a_value_that_python_cannot_hold_is_named(tmp_path: Path) -> None:
    times = pa.array([0] * 100 + [2**31 - 1], pa.date32())
    pq.write_table(pa.table({"user_id": ["ada"] * 101, "text": ["x"] * 101, "time": times}), tmp_path / "t.parquet")
    expected = r"t.parquet, row 100: `time` holds a value that cannot be read: OverflowError: days="
    with pytest.raises(DataFormatError, match=expected):
        list(read_records(tmp_path / "t.parquet"))


# JSON lines


def test_json_lines_become_records(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "h.jsonl", ROWS)
    reader = read_records(path)
    assert (reader.format, reader.source) == ("jsonl", str(path))
    assert list(reader) == ROW_RECORDS


@pytest.mark.parametrize("name", ["h.jsonl", "h.ndjson", "h.json", "h.txt", "h"])
@pytest.mark.parametrize("zipped", [False, True])
def test_the_bytes_tell_json_lines_and_gzip(tmp_path: Path, name: str, zipped: bool) -> None:
    data = write_lines(tmp_path / name, ROWS).read_bytes()
    path = tmp_path / (name + ".gz" if zipped and name.startswith("h.j") else name)
    path.write_bytes(gzip.compress(data) if zipped else data)
    assert list(read_records(path)) == ROW_RECORDS
    assert list(read_records(path, format="jsonl")) == ROW_RECORDS


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"user_id": "ada", "text": "x"', "broken JSON: Expecting ',' delimiter: line 1 column 31"),
        ('{"user_id": "ada" "text": "x"}', "broken JSON: Expecting"),
        ('{"user_id": "ada", "text": "x"} {"a": 1}', "broken JSON: Extra data"),
        ('{"user_id": "ada", "text": "x\x01"}', "broken JSON: Invalid control character"),
        ('{"user_id": ' + "9" * 5000 + ', "text": "x"}', "broken JSON: .*5000 digits"),
        ("[" * 100_000, "the JSON is nested too deeply"),
        ('{"a":' * 100_000, "the JSON is nested too deeply"),
        ("[1]", r"a line must be a JSON object, was: \[1\] \(list\)"),
        ("null", "a line must be a JSON object, was: null"),
        ("{}", "a row must have `user_id`, has: nothing"),
        ('{"user_id": "ada"}', "a row must have `text`, has: user_id"),
        ('{"text": "x"}', "a row must have `user_id`, has: text"),
        ({"date": "2011"}, "a row may have .* and has date: rename"),
        ({"user_id": None}, "`user_id` must be a string or an integer, was: null"),
        ({"user_id": ""}, "a user id must not be empty"),
        ({"user_id": 1.0}, r"`user_id` must be a string or an integer, was: 1\.0"),
        ({"user_id": True}, "`user_id` must be a string or an integer, was: True"),
        ({"user_id": "a\x00"}, "`user_id` must not hold NUL"),
        ({"text": 5}, "`text` must be a string, was: 5"),
        ({"text": ["x"]}, "`text` must be a string, was: "),
        ({"text": "x\ud800"}, "`text` must not hold a lone surrogate"),
        ({"text": "x\x00"}, "`text` must not hold NUL"),
        ({"target": {}}, "`target` must be a string or a number"),
        ({"target": -math.inf}, "`target` must be a string or a number, was: -inf"),
        ({"time": "13 o'clock"}, "a time must be like"),
        ({"expires": "tomorrow"}, "a time must be like"),
        ({"role": 1}, "`role` must be a string, was: 1"),
        ({"speaker": "\x00"}, "`speaker` must not hold NUL"),
        ({"id": "i" * 600}, ".* at most 512 characters, was: 600"),
        ({"id": "r2"}, "the ids of a user's records must differ, 'r2' is on line 2"),
        ({"metadata": "m"}, "`metadata` must be an object, was: 'm'"),
        ({"metadata": [["a", "b"]]}, "`metadata` must be an object"),
        ({"metadata": {"m": [1]}}, r"`metadata\.m` must be a string"),
        ({"metadata": {"\ud800": "m"}}, ".* lone surrogate"),
    ],
)
def test_bad_lines_are_refused_with_their_number(tmp_path: Path, line: str | dict[str, Any], message: str) -> None:
    path = write_lines(tmp_path / "h.jsonl", ROWS[:2])
    with path.open("a", encoding="utf-8") as file:
        file.write(line if isinstance(line, str) else json.dumps({"user_id": "ada", "text": "x", **line}))
    reader = read_records(path)
    assert [next(reader), next(reader)] == ROW_RECORDS[:2]
    with pytest.raises(DataFormatError, match=f"line 3: {message}") as caught:
        next(reader)
    assert caught.value.source == str(path)
    assert len(str(caught.value)) < 500 + len(str(path))


def test_an_id_given_twice_for_one_content_is_no_error(tmp_path: Path) -> None:
    other = {**ROWS[1], "user_id": "bob", "text": "Other."}
    path = write_lines(tmp_path / "h.jsonl", [ROWS[1], ROWS[1], other, {**other, "id": ""}])
    assert [record.id for _, record in read_records(path)][:3] == ["r2", "r2", "r2"]


def test_rows_without_text_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [{"user_id": "ada", "text": text} for text in ("", " ", None, math.nan, "x")]
    reader = read_records(write_lines(tmp_path / "r.jsonl", rows))
    assert list(reader) == [("ada", Record("x"))]
    assert reader.skipped == 4


# Sources


@pytest.mark.parametrize("format", ["auto", "lamp", "jsonl", "parquet"])
def test_a_missing_file_is_a_clear_error(tmp_path: Path, format: str) -> None:
    with pytest.raises(DataFormatError, match=r"nowhere.*cannot be read: .*No such file"):
        list(read_records(tmp_path / "nowhere", format=format))
    with pytest.raises(DataFormatError, match="cannot be read"):
        list(read_records("a\x00b", format=format))


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
def test_a_folder_is_no_file(tmp_path: Path, format: str) -> None:
    with pytest.raises(DataFormatError, match=r"cannot be read: .*(directory|not a regular file)"):
        list(read_records(tmp_path, format=format))


def test_a_file_of_another_kind_shows_its_beginning(tmp_path: Path) -> None:
    path = tmp_path / "h.csv"
    path.write_text("user_id,text\nada,x\n")
    with pytest.raises(DataFormatError, match="JSON lines or Parquet, begins with: 'user_id,text"):
        read_records(path)


def test_options_are_checked_first(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "h.jsonl", ROWS)
    with pytest.raises(
        InvalidOptionError,
        match="one of auto, lamp, jsonl, json, parquet, datasets, messages, chatgpt, claude, was: 'csv'",
    ):
        read_records(path, format="csv")
    with pytest.raises(InvalidOptionError, match=r"a task is for LaMP's files, and .* is of the form jsonl: leave it"):
        read_records(path, task="LaMP_3")
    with pytest.raises(UnknownTaskError, match="was: 'LaMP_99'"):
        read_records(path, task="LaMP_99")
    with pytest.raises(InvalidOptionError, match=r"the format of hub:owner/name is 'datasets', was: 'jsonl'"):
        read_records("hub:owner/name", format="jsonl")
    with pytest.raises(InvalidOptionError, match=r"a path or a datasets\.Dataset, was: builtins\.list"):
        read_records(cast(Any, ROWS))


# Tables


def test_parquet_becomes_records(tmp_path: Path) -> None:
    path = tmp_path / "h.parquet"
    pq.write_table(table(ROWS), path)
    reader = read_records(path)
    assert reader.format == "parquet"
    assert list(reader) == ROW_RECORDS
    unnamed = path.rename(tmp_path / "h")
    assert list(read_records(unnamed)) == ROW_RECORDS


def test_parquet_has_typed_columns(tmp_path: Path) -> None:
    path = tmp_path / "h.parquet"
    columns = {
        "user_id": pa.array([1, 2, 2], pa.int64()),
        "text": pa.array(["a", "b", None], pa.large_string()),
        "target": pa.array([5.0, math.nan, None], pa.float64()),
        "time": pa.array([datetime(2011, 2, 3, 4, 5), None, None], pa.timestamp("us", tz="UTC")),
        "id": pa.array([0, 1, 2], pa.int32()),
        "metadata": pa.array([[("film", "Bullitt")], [], None], pa.map_(pa.string(), pa.string())),
        "__index_level_0__": pa.array([0, 1, 2]),  # what pandas adds
    }
    pq.write_table(pa.table(columns), path, row_group_size=2)
    reader = read_records(path)
    assert list(reader) == [
        ("1", Record("a", target="5", time="2011-02-03T04:05:00+00:00", id="0", metadata={"film": "Bullitt"})),
        ("2", Record("b", id="1")),
    ]
    assert reader.skipped == 1
    columns["time"] = pa.array([date(2011, 2, 3), None, None])
    pq.write_table(pa.table(columns), path)
    assert [record.time for _, record in read_records(path)] == ["2011-02-03", None]


def test_a_bad_parquet_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "h.parquet"
    pq.write_table(table(ROWS), path)
    whole = path.read_bytes()
    for data in (whole[:-20], whole[:100], b"PAR1", b"", whole[:4] + bytes(len(whole) - 8) + whole[-4:]):
        path.write_bytes(data)
        with pytest.raises(DataFormatError, match=r"h\.parquet: the Parquet file cannot be read"):
            list(read_records(path))
    pq.write_table(table(ROWS).drop_columns("text"), path)
    with pytest.raises(DataFormatError, match=r"h\.parquet: a row must have `text`, has: user_id, target"):
        list(read_records(path))
    pq.write_table(table(ROWS).append_column("stars", pa.array([1, 2, 3, 4, 5])), path)
    with pytest.raises(DataFormatError, match=r"h\.parquet: a row may have .* and has stars"):
        list(read_records(path))
    pq.write_table(table(ROWS).slice(0, 0), path)
    with pytest.raises(DataFormatError, match="there is not one row"):
        list(read_records(path))
    bad = pa.table({"user_id": ["a", "b"], "text": pa.array([b"x", b"y"], pa.binary())})
    pq.write_table(bad, path)
    with pytest.raises(DataFormatError, match=r"h\.parquet, row 0: `text` must be a string, was: b'x' \(bytes\)"):
        list(read_records(path))


def test_datasets_become_records() -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list(table(ROWS).to_pylist())
    for source in (data, data.to_iterable_dataset(), data.with_format("numpy")):
        reader = read_records(source)
        assert reader.format == "datasets"
        assert list(reader) == ROW_RECORDS
    generated = datasets.IterableDataset.from_generator(lambda: iter([{"user_id": "a", "text": "x", "stars": 1}]))
    with pytest.raises(DataFormatError, match=r"datasets\.IterableDataset: a row may have"):
        list(read_records(generated))
    with pytest.raises(DataFormatError, match=r"datasets\.Dataset: a row must have `text`"):
        list(read_records(data.remove_columns("text")))
    with pytest.raises(DataFormatError, match=r"datasets\.Dataset, row 2: a user id must not be empty"):
        list(read_records(datasets.Dataset.from_dict({"user_id": ["a", "b", ""], "text": ["x", "y", "z"]})))
    with pytest.raises(DataFormatError, match="there is not one row"):
        list(read_records(data.select([])))
    with pytest.raises(InvalidOptionError, match="must be one split, take one of: train"):
        read_records(datasets.DatasetDict({"train": data}))
    with pytest.raises(InvalidOptionError, match=r"the format of datasets\.Dataset is 'datasets', was: 'lamp'"):
        read_records(data, format="lamp")


def test_a_dataset_is_loaded_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder stands for the hub here: `datasets` loads both alike."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "owner" / "name"
    (folder / "data").mkdir(parents=True)
    pq.write_table(table(ROWS).drop_columns("metadata"), folder / "data" / "train-00000-of-00001.parquet")
    expected = [(user_id, replace(record, metadata={})) for user_id, record in ROW_RECORDS]
    for source, format in ((folder, "datasets"), (f"hub:{folder}", "auto"), (f"hub:{folder}:train", "datasets")):
        reader = read_records(source, format=format)
        assert (reader.format, reader.source) == ("datasets", str(source))
        assert list(reader) == expected
    pq.write_table(table(ROWS[:1]).drop_columns("metadata"), folder / "data" / "test-00000-of-00001.parquet")
    assert list(read_records(f"hub:{folder}:test")) == ROW_RECORDS[:1]
    for split in ("", ":dev"):
        with pytest.raises(InvalidOptionError, match=r"by split, as in .*:train: it has train, test"):
            read_records(f"hub:{folder}{split}")
    assert not [
        path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"
    ]  # no copy
    with pytest.raises(DataFormatError, match=r"the dataset cannot be loaded: .*nowhere"):
        read_records(f"hub:{tmp_path / 'nowhere'}")


rows = st.fixed_dictionaries(
    {"user_id": st.text(min_size=1), "text": st.text()},
    optional={
        "target": st.one_of(st.none(), st.text(), st.integers(), st.floats()),
        "time": st.one_of(st.none(), st.dates().map(str), st.integers(1000, 9999), st.text()),
        "id": st.one_of(st.none(), st.text(), st.integers()),
        "metadata": st.one_of(st.none(), st.dictionaries(st.text(), st.one_of(st.text(), st.integers(), st.none()))),
    },
)


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(rows, min_size=1, max_size=5))
def test_json_lines_and_parquet_say_the_same(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    """Random rows are read alike from both forms: the same records, or an error from both."""
    texts = [as_text(row) for row in rows]
    schema = pa.schema([*((name, pa.string()) for name in TEXTS), ("metadata", pa.map_(pa.string(), pa.string()))])
    try:
        arrow = pa.Table.from_pylist([{**row, "metadata": list(row["metadata"].items())} for row in texts], schema)
    except UnicodeEncodeError:  # Arrow has no lone surrogates
        arrow = None

    def outcome(path: Path) -> list[tuple[str, Record]] | None:
        try:
            return list(read_records(path))
        except PersonaError:
            return None

    lines = tmp_path / "r.jsonl"
    lines.write_text("\n".join(map(json.dumps, texts)))
    if arrow is None:
        assert outcome(lines) is None
        return
    pq.write_table(arrow, tmp_path / "r.parquet")
    assert outcome(lines) == outcome(tmp_path / "r.parquet")


# Real data


@pytest.mark.shared
def test_the_real_blogs_are_read(shared: Path) -> None:
    reader = read_records(shared / "data" / "histories" / "blogs.jsonl.gz")
    posts = list(reader)
    assert (len(posts), reader.skipped) == (28266, 0)
    assert len({user_id for user_id, _ in posts}) == 600
    assert len({(user_id, record.id) for user_id, record in posts}) == 28220
    assert all(record.time is not None and len(record.time) == 10 for _, record in posts)
    assert posts[0][1].time == "2004-08-08"
    assert Counter(str(record.time)[:4] for _, record in posts).most_common(1)[0][0] == "2004"
