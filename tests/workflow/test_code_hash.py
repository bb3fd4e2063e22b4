"""The hash of the code that a job runs: it follows what the code does, and is kept between runs."""

from pathlib import Path

import pytest

import code_hash
from code_hash import Code


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A script that imports one module of the library, which imports another."""
    folder = tmp_path / "src/trueshift"
    folder.mkdir(parents=True)
    (tmp_path / "script.py").write_text('"""Says."""\nfrom trueshift.one import thing\n')
    (folder / "one.py").write_text("import trueshift.two\n\nthing = 1  # a thing\n")
    (folder / "two.py").write_text("value = 2\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def fresh(project: Path) -> str:
    """The hash as a new process finds it, and writes it down."""
    known = Code(project)
    value = known.hash("script.py")
    known.keep()
    return value


def test_what_code_does_changes_the_hash_and_words_do_not(project: Path) -> None:
    first = fresh(project)
    (project / "src/trueshift/one.py").write_text('"""New."""\nimport trueshift.two\n\nthing = 1\n')
    assert fresh(project) == first
    (project / "src/trueshift/two.py").write_text("value = 3\n")
    changed = fresh(project)
    assert changed != first
    (project / "src/trueshift/two.py").write_text("value = 2\n")
    assert fresh(project) == first


def test_a_module_that_appears_later_counts(project: Path) -> None:
    (project / "script.py").write_text("from trueshift import later\n")
    first = fresh(project)
    (project / "src/trueshift/later.py").write_text("x = 1\n")
    assert fresh(project) != first


def test_what_is_known_is_not_parsed_again(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = fresh(project)
    parsed = []
    parse = code_hash.ast.parse
    monkeypatch.setattr(code_hash.ast, "parse", lambda text: parsed.append(text) or parse(text))
    assert fresh(project) == first and not parsed
    (project / "src/trueshift/two.py").write_text("value = 3\n")
    fresh(project)
    assert len(parsed) == 1


@pytest.mark.parametrize("content", ["", "[]", '{"script.py": ["x"]}', '{"script.py": 1}'])
def test_a_cache_of_another_form_is_made_anew(project: Path, content: str) -> None:
    first = fresh(project)
    (project / code_hash.CACHE).write_text(content)
    assert fresh(project) == first


def test_a_folder_that_cannot_be_written_costs_nothing_but_time(project: Path) -> None:
    (project / ".snakemake").write_text("no folder")
    assert fresh(project) == fresh(project)
