"""docs/training.md: its commands run, and its table of recipes says what they are."""

import re
import shlex

import pytest
from finetuning import QUICK, REPOSITORY, flags, load_example, save_data_set, save_image_vit, save_model
from transformers import pipeline

from timesformer_hf import RECIPES
from timesformer_hf.cli import main


pytest.importorskip("datasets")
pytest.importorskip("matplotlib")
pytestmark = pytest.mark.usefixtures("no_plots")

PAGE = (REPOSITORY / "docs" / "training.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", PAGE + (REPOSITORY / "README.md").read_text(), re.DOTALL)
PATTERN = r"^(?:timesformer-hf finetune|python examples/finetune\w*\.py) .*$"
COMMANDS = re.findall(PATTERN, "".join(BLOCKS), re.MULTILINE)
PROGRAM_SETTINGS = ("--epochs", "1", "--num_workers", "0")


@pytest.fixture
def place(data, tmp_path, monkeypatch):
    """A folder with what the commands name, in which a model of the Hub is a tiny one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "videos").symlink_to(data)
    save_model(tmp_path / "facebook" / "timesformer-base-finetuned-k400", ["swim", "run", "jump"])
    (tmp_path / "timesformer_hf").mkdir()
    (tmp_path / "timesformer_hf" / "camera_motion").symlink_to(REPOSITORY / "timesformer_hf" / "camera_motion")
    save_image_vit(tmp_path / "google" / "vit-base-patch16-224-in21k")
    (settings,) = re.findall(r"```yaml\n# settings.yaml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "settings.yaml").write_text(settings)
    videos = sorted(data.rglob("*.mp4"))
    rows = [f"{path},{('cat', 'dog|cat', 'dog', '')[number % 4]}" for number, path in enumerate(videos)]
    (tmp_path / "labels.csv").write_text("\n".join(["path,label", *rows]))
    return tmp_path


def test_there_are_commands():
    assert sum(command.startswith("timesformer-hf finetune") for command in COMMANDS) > 8
    assert sum(command.startswith("python examples/") for command in COMMANDS) == 2


@pytest.mark.parametrize("command", dict.fromkeys(COMMANDS))
def test_the_command_makes_a_model(command, place, data, monkeypatch):
    if "--streaming" in command:
        monkeypatch.setattr("datasets.config.SLEEP_TIME_ON_THREADS_SHUTDOWN", 0.05)
        save_data_set(data, place / "me" / "my-data-set")
        command = command.replace("20000", "2")
    if "--data shards" in command:
        (shard,) = re.findall(r"^timesformer-hf (shard .*)$", PAGE, re.MULTILINE)
        assert main(shlex.split(shard)) == 0
    program, script, *arguments = shlex.split(command)
    if "--image_size" in arguments and "448" in arguments:
        arguments[arguments.index("448")] = "48"
    if program == "python":
        name = script.removeprefix("examples/").removesuffix(".py")
        load_example(name).main([*arguments, *PROGRAM_SETTINGS])
    else:
        quick = flags(**{name: value for name, value in QUICK.items() if name != "per_device_train_batch_size"})
        assert main(["finetune", *arguments, *quick, "--num_train_epochs", "1"]) == 0
    assert pipeline("video-classification", model="my-model")(str(next(data.rglob("*.mp4"))))


def test_the_table_of_recipes_says_what_they_are():
    header, _, *rows = re.search(r"\| \| `paper-kinetics`.*?\n\n", PAGE, re.DOTALL).group(0).strip().splitlines()
    names = re.findall(r"`(.*?)`", header)
    assert names == list(RECIPES)
    for row in rows:
        argument, *values = (cell.strip(" `") for cell in row.strip("|").split("|"))
        assert values == [str(RECIPES[name].defaults.get(argument, "-")) for name in names], argument
