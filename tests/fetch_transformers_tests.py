"""
Fetch transformers' own common tests, for the installed version, from its source distribution on PyPI.

    python tests/fetch_transformers_tests.py

They land below .cache/transformers_tests, where tests/test_transformers_common.py finds them.
The distribution lacks helpers that they import; what these do here stands in `HELPERS`.
"""

import hashlib
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import transformers


HELPERS = {
    # The pictures that image tests load from the Hub; here a smooth one of the same size, made on the spot.
    "../utils/fetch_hub_objects_for_ci.py": """from pathlib import Path

import numpy as np
from PIL import Image


def url_to_local_path(url):
    path = Path(__file__).with_name("picture.png")
    if not path.exists():
        rows, columns = np.mgrid[0:480, 0:640]
        waves = [np.sin(rows / 30 + columns / 50 + phase) for phase in (0, 1, 2)]
        Image.fromarray((127 + 120 * np.stack(waves, axis=-1)).astype(np.uint8)).save(path)
    return str(path)
""",
    # Exporting comes with its own tests once this package offers it; a video classifier generates no text.
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    # Values unlike the defaults for what every config has.
    "utils/test_configuration_utils.py": """config_common_kwargs = {
    "return_dict": False,
    "output_hidden_states": True,
    "dtype": "float16",
    "chunk_size_feed_forward": 5,
    "architectures": ["BertModel"],
    "id2label": {0: "label"},
    "label2id": {"label": "0"},
    "problem_type": "regression",
}
""",
}


def target_folder() -> Path:
    """The folder to put on `sys.path`: another one for another version, and for other helpers."""
    digest = hashlib.sha256(repr(HELPERS).encode()).hexdigest()[:8]
    return Path(__file__).parents[1] / ".cache" / "transformers_tests" / f"{transformers.__version__}-{digest}"


def fetch() -> Path:
    target = target_folder()
    if target.exists():
        return target
    with tempfile.TemporaryDirectory() as folder:
        download = ["download", "--quiet", "--no-deps", "--no-binary", ":all:", "--dest", folder]
        requirement = f"transformers=={transformers.__version__}"
        subprocess.run([sys.executable, "-m", "pip", *download, requirement], check=True)
        (archive,) = Path(folder).glob("transformers-*.tar.gz")
        package = Path(folder) / "fetched" / "transformers_tests"
        package.mkdir(parents=True)
        with tarfile.open(archive) as tar:
            for member in tar.getmembers():
                path = Path(member.name)
                if path.parts[1:2] == ("tests",) and path.suffix == ".py" and len(path.parts) == 3:
                    (package / path.name).write_bytes(tar.extractfile(member).read())
        for name, text in HELPERS.items():
            helper = package / name
            helper.parent.mkdir(exist_ok=True)
            helper.write_text(text)
            (helper.parent / "__init__.py").touch()
        (package / "__init__.py").touch()
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(dir=target.parent))
        shutil.move(package.parent, staging / "fetched")
        (staging / "fetched").rename(target)
        staging.rmdir()
    return target


if __name__ == "__main__":
    print(fetch())
