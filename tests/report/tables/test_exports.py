"""Exports: the frame itself, and tables that LaTeX and Markdown read as they were meant."""

import re
import shutil
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from mongebench import cli
from mongebench.report.tables import exports, leaderboard, leaderboard_text, results
from mongebench.report.tables.formats import Format
from mongebench.run.reading import read_run
from mongebench.run.record import Status

from ..conftest import cell, exponential

HOSTILE = r"a_1 & 50% #{x} \input{x} ^~$|<b>`"


@pytest.fixture
def run(write_run):
    entries = [(cell("flow", seed=seed, tau=tau), exponential(2.0, tau)) for seed in (0, 1) for tau in (0.1, 0.2)]
    return write_run([*entries, (cell(HOSTILE), []), (cell("late"), None)])


def written(run, format: Format, folder: Path) -> Path:
    name = str(folder / f"results.{format.suffix}")
    said = CliRunner().invoke(
        cli.app, ["export", str(run.path), "--format", format, "--out", name], catch_exceptions=False
    )
    assert said.output == f"written: {name}\n"
    return Path(name)


@pytest.mark.parametrize("format", [Format.CSV, Format.PARQUET])
def test_data_are_the_frame_to_the_last_bit(run, tmp_path, format) -> None:
    read = pd.read_csv if format is Format.CSV else pd.read_parquet
    kept = {"keep_default_na": False, "na_values": {"uvp": "", "fit_seconds": ""}} if format is Format.CSV else {}
    again, rows = read(written(run, format, tmp_path), **kept), read_run(run.path).frame()
    assert list(again) == list(rows)
    for name in ("estimator", "problem", "seed", "status", "key", "estimator_parameters", "uvp", "fit_seconds"):
        pd.testing.assert_series_equal(again[name], rows[name], check_exact=True, check_dtype=False)


def test_every_record_is_found_again_by_its_row(run, tmp_path) -> None:
    rows = pd.read_csv(written(run, Format.CSV, tmp_path))
    assert rows["key"].tolist() == [planned.cell.key for planned in run.plan().cells]


def test_latex_has_the_numbers_and_its_columns_match(run, tmp_path) -> None:
    text = written(run, Format.LATEX, tmp_path).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    columns = re.search(r"\\begin\{tabular\}\{(\w+)\}", text)[1]
    assert all(len(re.findall(r"(?<!\\)&", line)) == len(columns) - 1 for line in lines)
    (block,) = results.blocks(read_run(run.path).frame())
    for name, (shown,), *_ in block.lines():
        (line,) = [line for line in lines if line.startswith(exports.tex(name) + " &")]
        assert f"{exports.tex(shown.text)} {{\\scriptsize {shown.count}}}" in line
    assert r"\input" not in text
    assert text.count("{") - text.count(r"\{") == text.count("}") - text.count(r"\}")


def test_latex_prints_what_it_would_obey() -> None:
    # In math mode, the sign needs no input encoding.
    assert exports.tex(r"1 ± 2 & 3 % of \a_b") == r"1 $\pm$ 2 \& 3 \% of \textbackslash{}a\_b"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex on this machine; columns are checked above")
def test_latex_compiles(run, tmp_path) -> None:
    written(run, Format.LATEX, tmp_path)
    document = r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage{booktabs}\begin{document}\input{results}"
    (tmp_path / "paper.tex").write_text(document + r"\end{document}", encoding="utf-8")
    command = ["pdflatex", "-halt-on-error", "-no-shell-escape", "-interaction=nonstopmode", "paper"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "paper.pdf").stat().st_size > 1000


def test_markdown_is_the_same_table(run, tmp_path) -> None:
    text = written(run, Format.MARKDOWN, tmp_path).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert "<b>" not in text.replace(r"\<b\>", "")
    assert re.search(r"\| late \| missing \(0/1\) \|", text)


@pytest.mark.parametrize("format", list(Format))
def test_the_leaderboard_is_the_one_of_the_report_in_every_format(run, tmp_path, format) -> None:
    path = tmp_path / f"board.{format.suffix}"
    command = ["export", str(run.path), "--format", format, "--out", str(path), "--leaderboard"]
    assert CliRunner().invoke(cli.app, command, catch_exceptions=False).output == f"written: {path}\n"
    rows = read_run(run.path).frame()
    lines = leaderboard.board(rows)
    if format in (Format.CSV, Format.PARQUET):
        again = pd.read_csv(path) if format is Format.CSV else pd.read_parquet(path)
        assert again["estimator"].tolist() == [line["estimator"] for line in lines]
        assert again["ratio"].tolist() == pytest.approx([line["ratio"] for line in lines], nan_ok=True)
        return
    escaped, end, between = (
        (exports.markdown, " |", r"(?<!\\)\|") if format is Format.MARKDOWN else (exports.tex, r" \\", r"(?<!\\)&")
    )
    text = path.read_text(encoding="utf-8").splitlines()
    for table in leaderboard_text.shown(lines):
        for line in table.lines:
            (row,) = [row for row in text if row.removeprefix("| ").startswith(escaped(line["estimator"]) + " ")]
            assert row.endswith(f"{line['n_ok']}/{line['n_planned']}{end}")
            assert escaped(table.cells(line)[2]) in row
            assert "nan" not in row
    assert len({len(re.findall(between, row)) for row in text if row.endswith(end)}) == 1
    assert escaped(leaderboard.RULE)[:40] in path.read_text(encoding="utf-8")


def test_a_leaderboard_by_one_metric_is_refused(run) -> None:
    done = CliRunner().invoke(cli.app, ["export", str(run.path), "--leaderboard", "--metric", "uvp"])
    assert done.exit_code != 0
    assert not (Path(run.path) / "leaderboard.csv").exists()


def test_failures_stand_in_every_format(write_run, tmp_path) -> None:
    run = write_run([(cell("flow"), [])], status=Status.TIMEOUT)
    for format in Format:
        if format is not Format.PARQUET:
            assert "timeout" in written(run, format, tmp_path).read_text(encoding="utf-8")


def test_a_wrong_format_names_the_right_ones(run) -> None:
    said = CliRunner().invoke(cli.app, ["export", str(run.path), "--format", "excel"])
    assert said.exit_code == cli.USAGE
    assert "parquet" in said.output
