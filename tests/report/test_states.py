"""Files of a run that are no record of their planned cell: each is a state of that cell, for every reader."""

import errno
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

import mongebench as mb
from mongebench import cli
from mongebench.report.site import pages
from mongebench.report.tables import exports, results
from mongebench.report.tables.compare import Change, compare
from mongebench.report.tables.formats import Format
from mongebench.report.tables.terminal import show
from mongebench.run.frame import notes
from mongebench.run.reading import read_run
from mongebench.run.record import State, Status
from mongebench.run.sketch import Sketch
from mongebench.run.store import RunDirectory, RunError, RunStopped, read_record

from .conftest import cell, exponential

SEEDS = 4
TRACE = exponential(2.0, 0.1)
READERS = ("status", "table", "rate", "export", "report", "figures")


def says(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(cli.app, [*map(str, words)])
    assert done.exception is None or isinstance(done.exception, (SystemExit, RunError)), done.exception
    return done.exit_code, done.output + (str(done.exception) if isinstance(done.exception, RunError) else "")


@pytest.fixture
def run(write_run) -> RunDirectory:
    return write_run([(cell("flow", seed=seed), TRACE) for seed in range(SEEDS)])


def paths(run: RunDirectory) -> list[Path]:
    return [run.record_path(planned.cell) for planned in run.plan().cells]


def damage_byte(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"closed_form", b"closed\xff\xfeorm", 1))


def cut_letter(path: Path) -> None:
    content = path.read_bytes().replace(b'"reason": ""', '"reason": "é'.encode(), 1)
    path.write_bytes(content[: content.index("é".encode()) + 1])


def make_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def make_nested(path: Path) -> None:
    path.write_text("[" * 100_000, encoding="utf-8")


def make_sparse(path: Path) -> None:
    with open(path, "wb") as file:
        file.truncate(1 << 40)


DAMAGES = (
    damage_byte,
    cut_letter,
    make_pipe,
    make_folder,
    make_loop,
    make_nested,
    make_sparse,
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(b"null"),
)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_is_the_state_of_one_cell(run: RunDirectory, damage) -> None:
    damage(paths(run)[1])
    rows = read_run(run.path).frame()
    assert rows["status"].tolist() == [Status.OK, State.UNREADABLE, Status.OK, Status.OK]
    assert "cannot be read" in rows["reason"][1]
    summary = results.aggregate(rows, "uvp").iloc[0]
    assert (summary["n_ok"], summary["n_planned"], summary["failures"]) == (3, 4, {State.UNREADABLE: 1})
    (note,) = notes(rows)
    assert note.startswith("1 record is unreadable")
    assert [planned.cell.seed for planned in run.pending(run.plan().cells)] == [1]
    again = run.plan().cells[1]
    run.write(read_record(paths(run)[0]).model_copy(update={"cell": again.cell}))  # whatever lay there before
    assert run.find(again).record is not None


def test_a_record_of_another_cell_does_not_count(run: RunDirectory) -> None:
    first, second, *_ = paths(run)
    shutil.copy(first, second)
    found = run.find(run.plan().cells[1])
    assert found.status is State.UNREADABLE
    assert "another cell" in found.reason
    assert "seed=0" in found.reason
    assert len(list(run.records())) == SEEDS - 1


def test_every_reader_leaves_out_what_does_not_hold_and_says_so(run: RunDirectory, tmp_path: Path) -> None:
    before = tmp_path / "before"
    shutil.copytree(run.path, before)
    stale, damaged, waiting, _ = paths(run)
    text = stale.read_text(encoding="utf-8")
    stale.write_text(text.replace('"estimator_source": "0"', '"estimator_source": "old"'), encoding="utf-8")
    damage_byte(damaged)
    make_pipe(waiting)
    rows = read_run(run.path).frame()
    assert rows["status"].tolist() == [State.STALE, State.UNREADABLE, State.UNREADABLE, Status.OK]
    assert rows["uvp"].isna().tolist() == [True] * 3 + [False]
    for reader in READERS:
        code, said = says(reader, run.path)
        assert code == 0, (reader, said)
        assert "1 record is stale" in said, reader
        assert "2 records are unreadable" in said, reader
        assert "estimator_source: old -> 0" in " ".join(said.split()), reader
    assert pd.read_csv(run.path / "results.csv")["status"].tolist() == rows["status"].tolist()
    front = (run.path / "report" / "index.html").read_text(encoding="utf-8")
    assert "1 of 4 planned cells have a record that holds" in front
    assert "1 record is stale" in front
    assert "1 record is stale" in says("compare", before, run.path)[1]
    found = compare(read_run(before).frame(), rows)
    assert found["change"].tolist() == [Change.FAILS]
    assert found["n_paired"].tolist() == [1]


def test_of_several_runs_the_one_whose_record_holds_answers(run: RunDirectory, tmp_path: Path) -> None:
    later = tmp_path / "later"
    shutil.copytree(run.path, later)
    stale, damaged, gone, _ = paths(RunDirectory(later))
    stale.write_text(stale.read_text().replace('"threads": 1', '"threads": 2'), encoding="utf-8")
    damage_byte(damaged)
    gone.unlink()
    for order in ([run.path, later], [later, run.path]):
        assert read_run(*order).frame()["status"].tolist() == [Status.OK] * SEEDS


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_byte, "cannot be read"),
        (make_pipe, "not a regular file"),
        (make_folder, "cannot be read"),
        (make_loop, "cannot be read"),
        (make_nested, "cannot be read"),
        (lambda path: path.write_text('{"invocation": {"experiment": "x"}, "cells": []}'), "plans no cell"),
        (lambda path: path.write_text('{"invocation": {"experiment": "x"}}'), "cells: Field required"),
    ],
)
def test_a_damaged_plan_is_a_sentence_everywhere(run: RunDirectory, damage, words) -> None:
    damage(run.path / "plan.json")
    for reader in (*READERS, "why-rerun"):
        code, said = says(reader, run.path)
        assert code
        assert words in said, reader


def test_a_record_that_show_cannot_read_is_a_sentence(run: RunDirectory, monkeypatch, capsys) -> None:
    path = paths(run)[0]
    for damage in (damage_byte, make_pipe):
        damage(path)
        monkeypatch.setattr("sys.argv", ["mongebench", "show", str(path)])
        with pytest.raises(SystemExit) as exit_code:
            cli.main()
        assert exit_code.value.code == 2
        assert "not a readable record" in capsys.readouterr().err


@pytest.mark.parametrize("change", [lambda b: b"", lambda b: b[:100], lambda b: b[:90] + bytes([b[90] ^ 255]) + b[91:]])
def test_a_damaged_sketch_is_none(run: RunDirectory, change, rng) -> None:
    planned = run.plan().cells[0]
    points = rng.normal(size=(3, 50, 2)).astype("float32")
    run.write(read_record(paths(run)[0]), Sketch(*points))
    assert run.sketch(planned) is not None
    path = run.sketch_path(planned.cell)
    path.write_bytes(change(path.read_bytes()))
    assert run.sketch(planned) is None
    make_pipe(path)
    assert run.sketch(planned) is None


ESCAPES = "\x1b[31m\x1b]0;title\x07\x9b2J\u202ereversed\u2066\x00\r"
"""Colour, window title, C1, right-to-left, isolate, null, return."""


def test_a_run_is_what_was_found_when_it_was_read(run: RunDirectory) -> None:
    found = read_run(run.path)
    rows = found.frame()
    changed = found.frame()
    changed["status"] = "changed"
    shutil.rmtree(run.path)
    pd.testing.assert_frame_equal(found.frame(), rows)
    assert [record.cell.seed for record in found.records] == list(range(SEEDS))
    assert [planned.cell.seed for planned in found.plan.cells] == list(range(SEEDS))


def test_a_zipped_run_reads_as_its_directory(run: RunDirectory, tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "unpacked"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    packed = shutil.make_archive(str(tmp_path / "run"), "zip", run.path)
    found = mb.read_run(packed)
    pd.testing.assert_frame_equal(found.frame(), read_run(run.path).frame())
    assert len(list(folder.iterdir())) == 1
    del found
    assert not list(folder.iterdir())
    with pytest.raises(RunError, match="not a run"):
        read_run(shutil.make_archive(str(tmp_path / "cells"), "zip", run.cells))


@pytest.mark.parametrize("words", [["table"], ["rate"], ["report"], ["figures"], ["export"], ["status"]])
def test_every_reader_reads_each_record_once(run: RunDirectory, monkeypatch, words: list[str]) -> None:
    read = []
    monkeypatch.setattr("mongebench.run.store.read_record", lambda path: read.append(path.name) or read_record(path))
    assert says(*words, run.path)[0] == 0
    assert sorted(read) == sorted(path.name for path in paths(run))


def steers(text: str) -> list[str]:
    return [
        character
        for character in text
        if character not in "\n\t" and re.match(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", character)
    ]


def test_no_escape_of_a_record_reaches_the_terminal(write_run, monkeypatch, capsys) -> None:
    run = write_run([(cell(f"flow{ESCAPES}", seed=seed), TRACE) for seed in range(2)])
    path = paths(run)[0]
    hostile = read_record(path).model_copy(
        update={
            "status": Status.ERROR,
            "reason": ESCAPES,
            "tier": ESCAPES,
            "warnings": [ESCAPES],
            "learned": {ESCAPES: ESCAPES},
        }
    )
    run.write(hostile)
    run.record_path(run.plan().cells[1].cell).unlink()
    assert read_record(path).reason == ESCAPES  # the record keeps what was said
    for words in (["status", run.path], ["table", run.path], ["show", path], ["why-rerun", run.path]):
        monkeypatch.setattr("sys.argv", ["mongebench", *map(str, words)])
        with pytest.raises(SystemExit):
            cli.main()
        said = capsys.readouterr()
        assert said.out + said.err
        assert steers(said.out + said.err) == [], words


def test_styles_of_our_own_are_shown(monkeypatch, capsys) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    show("[bold]ours[/bold] \x1b[31mtheirs")
    said = capsys.readouterr().out
    assert "\x1b[1m" in said
    assert "\x1b[31m" not in said


def test_a_linked_page_does_not_overwrite_what_it_leads_to(run: RunDirectory, tmp_path: Path) -> None:
    victim, out = tmp_path / "victim", tmp_path / "out"
    victim.write_text("mine", encoding="utf-8")
    written = ("index.html", "assets/site.css", "downloads/results.csv", "downloads/records.zip", "downloads/error.svg")
    for page in written:
        (out / page).parent.mkdir(parents=True, exist_ok=True)
        (out / page).symlink_to(victim)
    pages.build(read_run(run.path), out)
    assert victim.read_text(encoding="utf-8") == "mine"
    assert not any((out / page).is_symlink() for page in written)


def test_linked_folders_of_a_report_are_refused(run: RunDirectory, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    for link in ("out/assets", "run/report", "run/figures"):
        (tmp_path / link).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunError, match="assets is a link"):
        pages.build(read_run(run.path), tmp_path / "out")
    for reader in ("report", "figures"):
        done = CliRunner().invoke(cli.app, [reader, str(run.path)])
        assert "is a link" in str(done.exception)
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize("format", list(Format))
def test_an_export_replaces_a_link(run: RunDirectory, tmp_path: Path, format: Format) -> None:
    victim, path = tmp_path / "victim", tmp_path / "out"
    victim.write_text("mine", encoding="utf-8")
    path.symlink_to(victim)
    exports.write(read_run(run.path).frame(), format, path)
    assert victim.read_text(encoding="utf-8") == "mine"
    assert path.stat().st_size > 50


@pytest.mark.parametrize(
    "words", [["report"], ["figures"], ["export"], ["export", "--format", "parquet"], ["export", "--format", "latex"]]
)
def test_a_full_disk_is_a_sentence(run: RunDirectory, monkeypatch, capsys, words: list[str]) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr("sys.argv", ["mongebench", *words, str(run.path)])
    with pytest.raises(SystemExit) as exit_code:
        cli.main()
    assert exit_code.value.code == 2
    assert "No space left on device" in capsys.readouterr().err
    assert not list(run.path.rglob("*.tmp"))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("words", [["table"], ["status"]])
def test_output_to_a_full_disk_is_a_sentence(run: RunDirectory, words: list[str]) -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "mongebench", *words, str(run.path)]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr == "mongebench: Cannot write the output: No space left on device.\n"


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_an_export_replaces_files_alone(run: RunDirectory, tmp_path: Path, make) -> None:
    make(tmp_path / "out")
    done = CliRunner().invoke(cli.app, ["export", str(run.path), "--out", str(tmp_path / "out")])
    assert "is not a file" in str(done.exception)
    assert not (tmp_path / "out").is_file()
    assert not list(tmp_path.glob("*.aside-*"))


def test_files_that_may_not_grow_are_a_sentence(run: RunDirectory) -> None:
    """A disk that fills while a library of somebody else writes."""
    limit = "import resource, signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    limit += f"resource.setrlimit(resource.RLIMIT_FSIZE, (2000, {resource.RLIM_INFINITY}))\n"
    code = f"{limit}from mongebench.cli import main; import sys; sys.argv[1:] = ['figures', {str(run.path)!r}]; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    assert "Cannot write" in done.stderr
    assert "Traceback" not in done.stderr


def test_records_have_the_permissions_of_any_new_file(run: RunDirectory) -> None:
    record = next(run.records())
    for mask, expected in ((0o022, 0o644), (0o077, 0o600), (0o002, 0o664)):
        before = os.umask(mask)
        try:
            run.write(record)
        finally:
            os.umask(before)
        assert run.record_path(record.cell).stat().st_mode & 0o777 == expected


def test_what_cannot_be_recorded_is_an_error_and_not_a_file_that_nobody_reads(run: RunDirectory) -> None:
    record = next(run.records())
    broken = record.model_copy(update={"learned": {"n_": 10**5000}})  # as if no validator had seen it
    run.write(broken)
    (planned, *_) = run.plan().cells
    kept = run.find(planned).record
    assert kept is not None
    assert kept.status is Status.ERROR
    assert "cannot be recorded" in kept.reason


def test_writing_into_a_file_in_place_of_a_folder_is_a_sentence(run: RunDirectory, tmp_path: Path) -> None:
    record = next(run.records())
    (tmp_path / "file").touch()
    with pytest.raises(RunStopped, match="Cannot write"):
        RunDirectory(tmp_path / "file").write(record)
