"""`.ci/release-check`: a tag is released only with its version and its entry in the changelog."""

import shutil
import subprocess

import pytest
from repository import REPOSITORY


CHANGELOG = """# Changelog

## [Unreleased]

## [1.2.3] - 2026-11-27

### Added

- Something.

## [1.2.2] - 2026-11-01

- Old.
"""
BEGUN = "a virtual environment was asked for"


@pytest.fixture
def release(tmp_path):
    """Runs the check in a copy of what it reads, up to where it would build: no network."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(REPOSITORY / ".ci" / "release-check", tmp_path / ".ci")
    (tmp_path / "timesformer_hf").mkdir()
    (tmp_path / "timesformer_hf" / "version.py").write_text('"""..."""\n\n__version__ = "1.2.3"\n')
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python3"
    python.write_text(f"#!/bin/sh\necho {BEGUN} >&2\nexit 1\n")
    python.chmod(0o755)

    def run(changelog: str, *tag: str) -> str:
        (tmp_path / "CHANGELOG.md").write_text(changelog)
        command = [tmp_path / ".ci" / "release-check", *tag]
        environment = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 1
        return done.stderr.strip()

    return run


def test_a_tag_with_its_entry_is_built(release):
    assert release(CHANGELOG, "v1.2.3") == BEGUN


def test_without_a_tag_nothing_is_asked_of_the_changelog(release):
    assert release("") == BEGUN


@pytest.mark.parametrize(
    ("changed", "tag", "message"),
    [
        (("", ""), "v1.2.4", "The tag is v1.2.4, but timesformer_hf/version.py says 1.2.3: tag v1.2.3"),
        (("", ""), "1.2.3", "The tag is 1.2.3, but timesformer_hf/version.py says 1.2.3: tag v1.2.3"),
        (("[1.2.3]", "[1.2.30]"), "v1.2.3", 'CHANGELOG.md has no heading "## [1.2.3] - YEAR-MONTH-DAY"'),
        ((" - 2026-11-27", ""), "v1.2.3", 'CHANGELOG.md has no heading "## [1.2.3] - YEAR-MONTH-DAY"'),
        (("- Something.\n", ""), "v1.2.3", "CHANGELOG.md says nothing under [1.2.3]"),
        (
            ("[Unreleased]\n", "[Unreleased]\n\n- New.\n"),
            "v1.2.3",
            "CHANGELOG.md has entries under [Unreleased]; put them under [1.2.3]",
        ),
    ],
)
def test_what_is_missing_is_said(changed, tag, message, release):
    assert release(CHANGELOG.replace(*changed), tag) == message


def test_the_workflow_calls_the_check_on_a_tag():
    yaml = pytest.importorskip("yaml")
    workflow = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "release.yml").read_text())
    assert workflow[True] == {"push": {"tags": ["v*"]}}  # YAML reads the key `on` as true
    assert [step["run"] for step in workflow["jobs"]["build"]["steps"] if "run" in step] == [
        '.ci/release-check "$GITHUB_REF_NAME"'
    ]
