"""The import hook: threads, second copies of the package, other hooks, and a transformers that is too old."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from fresh_process import CLASSES_USED, run
from repository import REPOSITORY
from tiny_models import save_classifier

from timesformer_hf import __version__
from timesformer_hf.registration import OLDEST_TRANSFORMERS


pytest.importorskip("av", reason="transformers' pipeline needs PyAV")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A checkpoint with its video processor."""
    return Path(save_classifier(tmp_path_factory.mktemp("model")))


class TestImportHook:
    def test_imports_in_several_threads(self, folder):
        """Each thread imports one of the modules that the hook follows. They import each other."""
        code = textwrap.dedent("""
            import importlib, sys, threading
            import transformers.utils  # not safe itself
            import timesformer_hf
            from timesformer_hf.registration import _PARTS

            names = [name for name in _PARTS if name.startswith("transformers")]
            barrier, errors = threading.Barrier(len(names)), []

            def load(name):
                barrier.wait()
                try:
                    importlib.import_module(name)
                except BaseException as error:
                    errors.append(error)

            threads = [threading.Thread(target=load, args=(name,), daemon=True) for name in names]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(120)
            print([thread.is_alive() for thread in threads] == [False] * len(names), errors)
            # An import of ours in here would wait for a lock of another thread.
            print(sorted(name for name in sys.modules if name.startswith("timesformer_hf.")))
        """)
        code += CLASSES_USED + "print(classes_used(sys.argv[1]))"
        ours = ["timesformer_hf.registration", "timesformer_hf.version"]
        assert run(code, folder).splitlines() == ["True []", str(ours), "{'timesformer_hf'}"]

    def test_second_copies_and_other_finders(self, folder):
        """The package is imported again, then reloaded; other hooks ask all finders, or have no find_spec."""
        code = textwrap.dedent("""
            import importlib, sys
            import timesformer_hf
            from transformers import AutoConfig

            for name in [name for name in sys.modules if name.startswith("timesformer_hf")]:
                del sys.modules[name]
            import timesformer_hf

            importlib.reload(timesformer_hf.registration)
            importlib.reload(timesformer_hf)

            class Old:
                def find_module(self, name, path=None):
                    pass

            class Asking:
                def find_spec(self, name, path=None, target=None):
                    others = [finder for finder in sys.meta_path if finder is not self]
                    finders = [finder for finder in others if hasattr(finder, "find_spec")]
                    return next(filter(None, (finder.find_spec(name, path, target) for finder in finders)), None)

            sys.meta_path[:0] = [Asking()]
            sys.meta_path.insert(2, Old())
            print([type(finder).__name__ for finder in sys.meta_path[:3]])
        """)
        code += CLASSES_USED + textwrap.dedent("""
            print(classes_used(sys.argv[1]))
            newest = AutoModelForVideoClassification.from_pretrained(sys.argv[1])
            print(type(newest) is timesformer_hf.TimesformerForVideoClassification)
            timesformer_hf.unregister()
            print(classes_used(sys.argv[1]))
        """)
        expected = ["['Asking', '_RegisteringFinder', 'Old']", "{'timesformer_hf'}", "True", "{'transformers'}"]
        assert run(code, folder).splitlines() == expected


class TestOlderTransformers:
    @pytest.fixture
    def older(self, tmp_path) -> str:
        """A folder with the first line of transformers 4.57, as far as this package looks at it."""
        (tmp_path / "transformers").mkdir()
        (tmp_path / "transformers/__init__.py").write_text('__version__ = "4.57.1"\n')
        return str(tmp_path)

    @pytest.mark.parametrize(
        "program",
        [
            ["-c", "import timesformer_hf"],
            ["-m", "timesformer_hf", "--help"],
            ["-c", "import transformers, timesformer_hf"],
        ],
    )
    def test_one_error_with_both_versions(self, program, older):
        process = subprocess.run(
            [sys.executable, *program],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([older, str(REPOSITORY)])},
            timeout=300,
        )
        assert process.returncode == 1
        assert process.stderr.splitlines()[-1] == (
            f"ImportError: timesformer_hf {__version__} needs transformers>=5.17,<6, but 4.57.1 is installed: "
            'python -m pip install "transformers>=5.17,<6"'
        )
        assert process.stderr.count("ImportError:") == 1

    def test_the_oldest_is_that_of_the_project(self):
        oldest = ".".join(map(str, OLDEST_TRANSFORMERS))
        assert f'"transformers>={oldest},<6"' in (REPOSITORY / "pyproject.toml").read_text()
