"""`timesformer-hf` itself: the first steps, the list of commands, and how it ends."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import warnings

import pytest

import timesformer_hf
from timesformer_hf import cli
from timesformer_hf.cli import main
from timesformer_hf.commands.completion import SHELLS
from timesformer_hf.video.video_errors import VideoWarning


NAMES = [command.__name__.rpartition(".")[2] for command in cli.COMMANDS]


def show_help(*words: str) -> None:
    with pytest.raises(SystemExit) as exit_info:
        main([*words, "--help"])
    assert exit_info.value.code == 0


class TestFirstSteps:
    def test_alone_it_shows_the_way_and_ends_well(self, capsys):
        assert main([]) == 0
        shown = capsys.readouterr().out
        for words in ("Label a video", "Train a model", "Look at what a checkpoint is", "Measure how fast"):
            assert words in shown

    def test_the_commands_that_it_shows_exist(self, capsys):
        main([])
        text = capsys.readouterr().out.replace("\\\n", " ")
        commands = [shlex.split(line) for line in text.splitlines() if line.startswith("  timesformer-hf")]
        assert {words[1] for words in commands} - {"--help", "COMMAND"} <= set(NAMES)
        assert len(commands) > 6

    @pytest.mark.parametrize("program", [["-m", "timesformer_hf"], ["-m", "timesformer_hf.cli"]])
    def test_python_m_is_the_same_program(self, program):
        process = subprocess.run([sys.executable, *program, "--version"], capture_output=True, text=True, timeout=300)
        assert process.returncode == 0, process.stderr
        assert process.stdout == f"timesformer_hf {timesformer_hf.__version__}\n"


class TestHelp:
    def test_it_lists_every_command(self, capsys):
        show_help()
        shown = capsys.readouterr().out
        for name in NAMES:
            assert f"\n    {name} " in shown

    @pytest.mark.parametrize("name", NAMES)
    def test_that_of_every_command_begins_with_examples(self, name, capsys):
        show_help(name)
        usage, description = capsys.readouterr().out.split("\n\n", 1)
        assert usage.startswith(f"usage: timesformer-hf {name} ")
        assert description.startswith(f"examples:\n  timesformer-hf {name}")

    def test_no_heavy_library_is_loaded_for_it(self):
        code = """
import sys
import warnings
from timesformer_hf.cli import main
from timesformer_hf.video.video_errors import VideoWarning

try:
    main(["--help"])
finally:
    heavy = ("accelerate", "av", "datasets", "matplotlib", "numpy", "torch", "transformers")
    print([name for name in heavy if name in sys.modules], file=sys.stderr)
"""
        process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
        assert process.stderr == "[]\n"


class TestCompletion:
    @pytest.fixture(autouse=True)
    def _needs_shtab(self):
        pytest.importorskip("shtab", reason="the completion is made by shtab")

    @pytest.fixture
    def script(self, capsys):
        def script_of(shell: str) -> str:
            with pytest.raises(SystemExit) as exit_info:
                main(["--print-completion", shell])
            assert exit_info.value.code == 0
            return capsys.readouterr().out

        return script_of

    @pytest.mark.parametrize("shell", SHELLS)
    def test_it_knows_every_command_and_the_options_of_classes(self, script, shell):
        words = set(re.findall(r"[\w-]+", script(shell)))
        options = {"--top-k", "--reset_head", "--time-audit"}
        if shell == "fish":  # it names options without their dashes
            options = {option.removeprefix("--") for option in options}
        assert {*NAMES, *options} <= words

    @pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
    @pytest.mark.parametrize(
        ("words", "completed"),
        [
            (["exp"], ["explain", "export"]),
            (["export", "--f"], ["--format"]),
            (["export", "--format", "o"], ["onnx", "openvino"]),
            (["finetune", "--reset_"], ["--reset_head"]),
            (["evaluate", "--time-a"], ["--time-audit"]),
            (["classify", "cl"], ["clip.mp4"]),
            (["classify", "clip.mp4", "--model", "cl"], ["clip.mp4"]),
        ],
    )
    def test_bash_completes(self, script, tmp_path, words, completed):
        (tmp_path / "clip.mp4").touch()
        (tmp_path / "completion").write_text(script("bash"))
        line = ["timesformer-hf", *words]
        program = (
            f"source ./completion; COMP_WORDS=({shlex.join(line)}); COMP_CWORD={len(words)}; "
            "$(complete -p timesformer-hf | sed 's/.* -F \\([^ ]*\\) .*/\\1/'); printf '%s\\n' \"${COMPREPLY[@]}\""
        )
        process = subprocess.run(
            ["bash", "--norc", "-c", program], capture_output=True, text=True, cwd=tmp_path, timeout=60
        )
        assert process.stdout.split() == completed, process.stderr


def test_a_missing_shtab_is_told(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["--print-completion", "bash"]) == 2
    shown = capsys.readouterr().err
    assert '--print-completion needs shtab, not installed: pip install "timesformer_hf[completion]"' in shown


class TestEnds:
    @pytest.fixture
    def failing(self, monkeypatch):
        """A command that ends as it is told."""

        def make(action):
            monkeypatch.setattr(cli.info, "run", lambda args: action())
            return main(["info", "checkpoint"])

        return make

    @pytest.mark.parametrize("error", [ValueError, OSError, ImportError])
    def test_bad_input_is_a_message_and_2(self, error, failing, capsys):
        def action():
            raise error("this can't be")

        assert failing(action) == 2
        assert capsys.readouterr().err == "timesformer-hf: this can't be\n"

    def test_sigterm_ends_it_as_an_error_does_and_the_handler_before_comes_back(self, failing):
        before = signal.getsignal(signal.SIGTERM)
        with pytest.raises(SystemExit) as exit_info:
            failing(lambda: os.kill(os.getpid(), signal.SIGTERM))
        assert exit_info.value.code == 128 + signal.SIGTERM
        assert signal.getsignal(signal.SIGTERM) is before

    def test_sigterm_of_one_of_several_processes_is_the_systems(self, failing, monkeypatch):
        monkeypatch.setenv("WORLD_SIZE", "2")
        before = signal.getsignal(signal.SIGTERM)
        assert failing(lambda: signal.getsignal(signal.SIGTERM) is before) is True

    def test_words_of_a_command_that_parses_its_own_stay_as_they_are(self, monkeypatch):
        seen = []
        monkeypatch.setattr(cli.finetune, "run", lambda args: seen.append(args.words) or 0)
        assert main(["finetune", "settings.yaml", "--flip", "-1", "--", "--help"]) == 0
        assert seen == [["settings.yaml", "--flip", "-1", "--", "--help"]]


class TestWarnings:
    """Warnings of other packages stay out of what a command prints, unless one asks for them."""

    @pytest.fixture
    def warning(self, monkeypatch):
        def run(args) -> int:
            warnings.warn("somebody else's", DeprecationWarning, stacklevel=1)
            warnings.warn("a video that is short", VideoWarning, stacklevel=1)
            return 0

        monkeypatch.setattr(cli.info, "run", run)

    def test_own_warnings_are_a_line(self, warning, capsys):
        assert main(["info", "checkpoint"]) == 0
        assert capsys.readouterr().err == "timesformer-hf: a video that is short\n"

    @pytest.mark.parametrize("words", [["info", "x", "--verbose"], ["--verbose", "info", "x"]])
    def test_verbose_leaves_them_alone(self, words, warning):
        with pytest.warns(DeprecationWarning, match="somebody else's"), pytest.warns(VideoWarning):
            assert main(words) == 0

    def test_libraries_are_told_to_log_errors_only(self, monkeypatch):
        seen = []
        monkeypatch.setenv("HF_HUB_VERBOSITY", "debug")  # what the user sets, stays
        monkeypatch.delenv("TORCH_LOGS", raising=False)
        names = ("TRANSFORMERS_VERBOSITY", "HF_HUB_VERBOSITY", "TORCH_LOGS")
        monkeypatch.setattr(cli.info, "run", lambda args: seen.append([os.environ.get(name) for name in names]) or 0)
        main(["info", "x"])
        main(["info", "x", "--verbose"])
        assert seen == [["error", "debug", "-torch"], [None, "debug", None]]
        assert "TORCH_LOGS" not in os.environ

    def test_the_option_is_in_the_help(self, capsys):
        with pytest.raises(SystemExit):
            main(["classify", "--help"])
        assert "--verbose" in capsys.readouterr().out
