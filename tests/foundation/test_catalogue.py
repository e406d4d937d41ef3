import subprocess
import sys
from pathlib import Path

import pytest

from sonido_bench.errors import ConfigError, DataError
from sonido_bench.foundation.catalogue import built_in_names, load_extractor
from sonido_bench.foundation.checkpoint import save_checkpoint, shipped_folder
from sonido_bench.foundation.convnet import ConvNet
from tests.foundation.codec.tiny_codec import CARD as CODEC_CARD
from tests.foundation.codec.tiny_codec import tiny_music_codec
from tests.foundation.jukebox.tiny_jukebox import CARD as JUKEBOX_CARD
from tests.foundation.jukebox.tiny_jukebox import jukebox

EXAMPLE = Path(__file__).parents[1] / "features" / "example_extractor.py"


@pytest.fixture
def own_module(tmp_path, monkeypatch):
    """A working folder with the user's own module."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "my_models.py").write_text(EXAMPLE.read_text() + "\n\nclass Fake:\n    pass\n\n\nclass Greedy(Bands):\n"
        "    def __init__(self, folder, bands=8):\n        super().__init__(bands)\n")  # fmt: skip
    (tmp_path / "my_broken.py").write_text("import no_such_library\n")
    (tmp_path / "my_typo.py").write_text("def\n")
    yield tmp_path
    for name in ("my_models", "my_broken", "my_typo"):
        sys.modules.pop(name, None)


def test_every_built_in_name_loads():
    assert built_in_names() == ["chroma", "codec-tiny", "convnet", "lfk16", "logmel", "sonido-tiny"]
    assert [load_extractor(name).card.name for name in built_in_names()] == built_in_names()


def test_random_control_by_name():
    assert load_extractor("convnet@random").card.name == "convnet@random"
    assert load_extractor("convnet@random").fingerprint() != ConvNet().fingerprint()


def test_tokenizer_control_by_name():
    assert load_extractor("sonido-tiny@tokenizer").card.name == "sonido-tiny@tokenizer"
    assert load_extractor("sonido-tiny@tokenizer").spec.dims == {"top": 256, "mid": 256}
    assert load_extractor("codec-tiny@tokenizer").card.name == "codec-tiny@tokenizer"
    assert load_extractor("codec-tiny@tokenizer").spec.dims == {"codes": 128}


def test_own_class_of_the_working_folder(own_module):
    assert load_extractor("my_models:Bands").card.name == "bands"
    assert load_extractor("my_models:Bands@random").card.name == "bands@random"
    assert load_extractor("sonido_bench.foundation.convnet:ConvNet").fingerprint() == ConvNet().fingerprint()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("logmell", r"unknown extractor 'logmell' \(did you mean logmel\?\); built in: chroma, codec-tiny, convnet"),
        ("", "unknown extractor ''"),
        ("logmel@random", "no weights"),
        ("logmel@tokenizer", "'logmel' has no @tokenizer control"),
        ("logmel@shuffled", "unknown control @shuffled"),
        ("logmel@", "unknown control"),
        ("my_models:Band", r"no 'Band' \(did you mean Bands"),
        ("my_models:Fake", "derived from"),
        ("my_models:torch", "derived from"),
        ("my_models:Greedy", "found none for folder"),
        ("my_modles:Bands", "no module 'my_modles'"),
        ("my_models.inner:Bands", "cannot import|no module"),
        ("my_broken:Bands", "needs 'no_such_library'"),
        ("my_typo:Bands", "cannot import"),
        (":Bands", "cannot import"),
        ("..models:Bands", "cannot import"),
    ],
)
def test_mistakes_are_named(own_module, name, message):
    with pytest.raises(ConfigError, match=message):
        load_extractor(name)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model of each family, as a folder."""
    root = tmp_path_factory.mktemp("models")
    save_checkpoint(root / "jukebox", jukebox(), JUKEBOX_CARD)
    save_checkpoint(root / "codec", tiny_music_codec(), CODEC_CARD)
    (root / "sonido").symlink_to(shipped_folder("sonido-tiny"))
    return root


@pytest.mark.parametrize(
    ("family", "layers", "streams", "codes"),
    [
        ("jukebox", [1, 3], {"layer_1", "layer_3"}, {"codes"}),
        ("codec", [0], {"layer_0"}, {"codes"}),
        ("sonido", [1], {"top", "mid"}, {"top", "mid"}),
    ],
)
def test_a_models_folder_is_an_extractor(folders, family, layers, streams, codes):
    name = str(folders / family)
    assert set(load_extractor(name, layers).spec.streams) == streams
    plain, random, tokenizer = (load_extractor(name + control) for control in ("", "@random", "@tokenizer"))
    assert set(tokenizer.spec.streams) == codes
    names = [one.card.name for one in (random, tokenizer)]
    assert names == [f"{plain.card.name}@random", f"{plain.card.name}@tokenizer"]
    assert len({one.fingerprint() for one in (plain, random, tokenizer)}) == 3
    with pytest.raises(ConfigError, match=r"layers"):
        load_extractor(name, [99])


def test_layers_are_for_a_folder_and_a_folder_is_a_model(tmp_path):
    with pytest.raises(ConfigError, match="layers are those of a model's folder, and logmel is none"):
        load_extractor("logmel", [1])
    with pytest.raises(DataError, match="expected the files"):
        load_extractor(str(tmp_path))


def test_names_are_listed_without_loading_torch():
    program = (
        "import sys; from sonido_bench.foundation.catalogue import built_in_names; built_in_names();"
        "print('torch' in sys.modules, 'lightning' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
