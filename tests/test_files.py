"""Files of text: what ends a line, what is damage, and that nothing is lost without a word."""

import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass

import pytest
from pydantic import TypeAdapter

from stet.core import writing
from stet.core.errors import FileError
from stet.core.reading import json_lines, json_of, lines_of, read_records, read_text
from stet.core.writing import append_lines, check_writable, drop_torn_line, json_line, write_text

SEPARATORS = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e"
"""All that `str.splitlines` ends a line at, beside line feeds and carriage returns."""


@dataclass
class Said:
    text: str


SAID = TypeAdapter(Said)


def said(path):
    return [r.text for r in read_records(path, SAID, "a saying")]


def test_a_line_ends_at_a_line_feed_alone(tmp_path):
    path = tmp_path / "lines"
    text = SEPARATORS.join("abcdefghi") + "\r"
    append_lines(path, [text, "next"])
    assert [line.text for line in lines_of(path)] == [text.removesuffix("\r"), "next"]
    assert path.read_bytes().count(b"\n") == 2


def test_records_read_back_whatever_is_in_them(tmp_path):
    path = tmp_path / "records.jsonl"
    texts = [f"before{s}after" for s in (*SEPARATORS, "\r", "\n", "\r\n", "\0", "\ufeff", "🙂")]
    append_lines(path, [json_line({"text": t}) for t in texts])
    assert said(path) == texts
    assert [r["text"] for r in json_lines(path)] == texts


def test_half_a_character_does_not_make_a_record_that_nobody_can_read(tmp_path):
    path = tmp_path / "records.jsonl"
    append_lines(path, [json_line({"text": "a\ud800b"})])
    assert said(path) == ["a\ufffdb"]


@pytest.mark.parametrize("torn", [b'{"text": "ha', b'{"text": "\xf0\x9f', b"\0\0\0\0"])
def test_what_an_interrupted_write_left_is_taken_for_that_alone(tmp_path, torn):
    path = tmp_path / "records.jsonl"
    append_lines(path, [json_line({"text": "whole"})])
    before = path.read_bytes()
    path.write_bytes(before + torn)
    assert said(path) == ["whole"]
    assert path.read_bytes() == before + torn  # reading changes nothing
    with pytest.raises(FileError, match="ends inside a line"):
        append_lines(path, ["{}"])
    drop_torn_line(path)
    append_lines(path, [json_line({"text": "more"})])
    assert said(path) == ["whole", "more"]


def test_a_long_line_that_was_cut_short_is_dropped_from_its_beginning(tmp_path):
    path = tmp_path / "records.jsonl"
    append_lines(path, [json_line({"text": "whole"})])
    before = path.read_bytes()
    path.write_bytes(before + b'{"text": "' + b"x" * 300_000)
    drop_torn_line(path)
    assert path.read_bytes() == before


def test_a_last_record_that_lacks_its_line_end_alone_is_kept(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text('{"text": "one"}\n{"text": "two"}')
    assert said(path) == ["one", "two"]
    drop_torn_line(path)
    append_lines(path, [json_line({"text": "three"})])
    assert said(path) == ["one", "two", "three"]


@pytest.mark.parametrize(
    "damage",
    [b'{"text": "ha\n', b"\xff\xfe\n", b"\0\0\0\n", b'{"no": 1}\n', b'{"text": "\\ud800"}\n'],
)
def test_damage_before_the_end_is_named_and_nothing_is_deleted(tmp_path, damage):
    path = tmp_path / "records.jsonl"
    path.write_bytes(b'{"text": "one"}\n' + damage + b'\n{"text": "three"}\n')
    before = path.read_bytes()
    with pytest.raises(FileError, match=r"records\.jsonl, line 2: not a saying"):
        said(path)
    drop_torn_line(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("héllo".encode("utf-16"), "UTF-16"),
        ("hello".encode("utf-16-be"), "NUL"),
        ("\ufeffhello".encode("utf-32"), "UTF-32"),
        (b"fine\nh\xe9llo\n", r"line 2, .* byte 2 \(0xe9\) is not UTF-8"),
        (b"a\0b", "NUL"),
        (b"x" * 40, "line 1: longer than"),
    ],
)
def test_what_is_no_text_is_told_in_a_sentence(tmp_path, content, told):
    path = tmp_path / "file.txt"
    path.write_bytes(content)
    with pytest.raises(FileError, match=told) as caught:
        list(lines_of(path, longest=32))
    assert str(path) in str(caught.value)


def test_marks_and_windows_line_ends_are_no_part_of_a_text(tmp_path):
    path = tmp_path / "file.txt"
    path.write_bytes(b"\xef\xbb\xbfone\r\n two \r\n\r\nthree")
    assert [line.text for line in lines_of(path)] == ["one", " two ", "", "three"]
    assert read_text(path).startswith("one\r\n")


def test_a_text_that_is_too_long_is_told(tmp_path):
    path = tmp_path / "file.txt"
    path.write_bytes(b"x" * 2**20)
    assert len(read_text(path, longest=2**20)) == 2**20
    path.write_bytes(b"x" * (2**20 + 1))
    with pytest.raises(FileError, match=r"file\.txt is longer than 1 MiB"):
        read_text(path, longest=2**20)


@pytest.mark.parametrize("place", ["nothing.txt", ".", "/nothing/at/all"])
def test_what_cannot_be_read_is_named(tmp_path, place):
    for read in (read_text, lambda p: list(lines_of(p)), said):
        with pytest.raises(FileError, match="cannot be read"):
            read(tmp_path / place)


def test_json_that_is_none():
    deep = "[" * 100_000
    for text, told in (
        ("{", "character 2"),
        (deep, "nested"),
        ('{"a": "\\ud800"}', "surrogate"),
        ("1" * 5000, "not JSON"),
    ):
        with pytest.raises(FileError, match=told):
            json_of(text, "here")
    assert json_of('{"a": "\\ud83d\\ude42"}', "here") == {"a": "🙂"}


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "settings.json"
    write_text(path, "old\n")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(FileError, match=r"settings\.json cannot be written \(No space left\)"):
        write_text(path, "new\n")
    assert path.read_text() == "old\n"
    assert [p.name for p in tmp_path.iterdir()] == ["settings.json"]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"


@pytest.mark.parametrize("failure", [OSError(28, "No space left"), KeyboardInterrupt()])
def test_lines_that_cannot_be_added_leave_no_half(tmp_path, monkeypatch, failure):
    path = tmp_path / "records.jsonl"
    append_lines(path, ["one"])
    real = writing._write

    def half(file, content):
        real(file, content[: len(content) // 2])
        raise failure

    monkeypatch.setattr(writing, "_write", half)
    with pytest.raises((FileError, KeyboardInterrupt)):
        append_lines(path, ["a long line", "another"])
    assert path.read_text() == "one\n"


def test_a_system_that_takes_a_part_at_a_time_gets_all(tmp_path):
    class Slow(io.FileIO):
        def write(self, content):
            return super().write(content[:3])

    with Slow(tmp_path / "file", "w") as file:
        writing._write(file, b"more than three")
    assert (tmp_path / "file").read_bytes() == b"more than three"


def test_a_full_disk_is_told(tmp_path):
    for write in (append_lines, lambda p, t: write_text(p, t[0])):
        with pytest.raises(FileError, match="/dev/full cannot be written"):
            write(type(tmp_path)("/dev/full"), ["text"])


def test_places_are_tried_before_work_begins(tmp_path):
    (tmp_path / "file").write_text("text")
    for good in ("file", "new"):
        check_writable(tmp_path / good)
    check_writable(tmp_path / "a" / "b" / "c", parents=True)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "text"
    for bad, told in (
        (tmp_path, "is a folder"),
        (tmp_path / "no" / "file", "there is no folder"),
        (tmp_path / "file" / "x", "cannot be written"),
        (type(tmp_path)("/proc/x"), "cannot be written"),
    ):
        with pytest.raises(FileError, match=told):
            check_writable(bad)
    with pytest.raises(FileError, match="cannot be written"):
        check_writable(tmp_path / "file" / "x" / "y", parents=True)
    (tmp_path / "file").write_text('{"torn')
    with pytest.raises(FileError, match="ends inside a line"):
        check_writable(tmp_path / "file", lines=True)


def test_a_file_in_a_folder_that_takes_no_other_cannot_be_replaced(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("text\n")

    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("stet.core.writing.tempfile.TemporaryFile", refused)
    with pytest.raises(FileError, match="file cannot be written .Permission denied"):
        check_writable(path)
    check_writable(path, lines=True)  # nothing takes its place


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_nobody_may_write_to(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(FileError, match="Permission denied"):
            check_writable(tmp_path / "file")
    finally:
        tmp_path.chmod(0o700)


def test_a_killed_writer_leaves_whole_records(tmp_path):
    path = tmp_path / "records.jsonl"
    code = (
        "import sys; from pathlib import Path\n"
        "from stet.core.writing import append_lines, json_line\n"
        "n = 0\n"
        "while True:\n"
        "    append_lines(Path(sys.argv[1]), [json_line({'text': 'x' * 5000 + str(n)})] * 3)\n"
        "    n += 1; print(n, flush=True)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE)
    told = [writer.stdout.readline() for _ in range(20)]
    writer.kill()
    writer.communicate()
    assert len(said(path)) >= 3 * int(told[-1])
    assert all(json.loads(line.text) for line in lines_of(path))
